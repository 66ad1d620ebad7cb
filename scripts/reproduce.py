"""Run a suite (configs/suite/), or a group of suites, and write their tables and figures.

    make reproduce                                             # suites benchmark_small and semantic_small
    make reproduce SUITE=theory                                # samplers against exact posteriors: docs/theory.md
    make reproduce SUITE=ffhq256 DRY=1                         # only the plan: what would run, what is missing
    make reproduce SUITE=paper DRY=1                           # every experiment of the paper: docs/paper-scale.md
    python scripts/reproduce.py --suite paper --smoke          # all of them small, on embedded models
    python scripts/reproduce.py --suite embedded --images 64 --out results/embedded64
    python scripts/reproduce.py --suite semantic --images 32 --samples 4 --out results/semantic512
    python scripts/reproduce.py --suite ffhq256 --launcher slurm partition=gpu    # on a cluster: docs/running.md

Runs are ordinary ones, below `<out>/runs/<task>/`: `run.py` would make the same images. A stopped suite
goes on where it was; a finished one only writes its tables and figures again.
"""

import sys

from dsg.suites.main import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], __doc__))
