from bnnlib.fuzz import app

app()
