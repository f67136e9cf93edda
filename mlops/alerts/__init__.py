"""Alerts: a matrix of rows as data, a state machine for each, and actions that are done once.

`AlertPolicy` is one model's; `load_matrix` reads the rows, `readings` turns windows and figures into what rows take.
"""
