"""Kills, freezes and cuts off processes under load, and counts by the traces that the task bodies write."""
