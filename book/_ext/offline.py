"""Take sphinx-thebe out again.

Jupyter Book always loads it, and it puts scripts on every page that ask a public server for more. This book
is run in JupyterLab, and its pages work without a network.
"""


def setup(app):
    events = app.events.listeners
    for name, listeners in events.items():
        events[name] = [listener for listener in listeners if listener.handler.__module__ != "sphinx_thebe"]
    app.registry.css_files = [file for file in app.registry.css_files if file[0] != "sphinx-thebe.css"]
    return {"parallel_read_safe": True, "parallel_write_safe": True}
