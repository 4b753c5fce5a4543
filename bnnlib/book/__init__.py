"""The book: chapters and the gate in front of them, the site, figures; and ``studies``, which single chapters need."""
