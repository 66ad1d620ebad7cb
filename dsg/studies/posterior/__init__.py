"""Exact posteriors, samplers against them, and the theory of guidance as quantities: docs/theory.md."""
