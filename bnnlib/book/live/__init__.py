"""The net that runs in the page: :mod:`~bnnlib.book.live.page` is what the site is built with."""
