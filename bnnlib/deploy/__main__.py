"""``python -m bnnlib.deploy info|run|export``."""

from bnnlib.deploy.commands import app

if __name__ == "__main__":
    app(prog_name="bnn deploy")
