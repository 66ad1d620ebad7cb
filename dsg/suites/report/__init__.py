"""Finished runs as one HTML page, as the paper's tables, and as a W&B report.

Everything is read from the folders of the runs: no prior, no data set, no network.
"""
