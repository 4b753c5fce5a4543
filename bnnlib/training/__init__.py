"""Training: the loop and its command line, checkpoints, schedules, objectives, evaluation, and what a recipe names,
built."""
