"""Findings as a clinician reads them: a table with intervals, thresholds, calibration, subgroups and baselines."""
