"""The fields of a small recipe, for tests to change."""


BASE = {
    "title": "A net",
    "source": "ours",
    "dataset": "digits",
    "epochs": 3,
    "model": {"name": "lenet5", "act": "prelu"},
    "optimizer": {"name": "adam", "lr": 0.01},
}


def changed(**fields):
    """The fields of the small recipe, some of them changed."""
    return {**BASE, **fields}
