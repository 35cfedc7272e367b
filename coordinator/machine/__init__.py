"""``coordinator up``: one installation on one machine, its processes and its live screen."""
