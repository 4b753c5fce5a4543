"""What runs say together: tables of runs, comparisons with intervals, and the scoreboard."""
