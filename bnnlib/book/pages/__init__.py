"""What the site is made of besides its prose: one page or part of a page a module, generated from records."""
