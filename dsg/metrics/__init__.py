"""Metrics, computed from saved images: `image.py` (against the truth), `semantic.py` (by an evaluator),
`distribution.py` (of sets)."""
