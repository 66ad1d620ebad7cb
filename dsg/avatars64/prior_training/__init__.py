"""The training of the embedded prior: what a step draws, its loss, its optimisers, its averages, its loop."""
