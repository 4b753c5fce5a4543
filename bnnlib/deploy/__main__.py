"""``python -m bnnlib.deploy info|export``."""

from bnnlib.deploy.files import app

if __name__ == "__main__":
    app()
