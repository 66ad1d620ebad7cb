"""Finished runs as one HTML page that works without a network, and as the paper's tables.

python scripts/report.py benchmark_small                         # a suite: results/benchmark_small/report.html
python scripts/report.py results/ffhq256/inpaint/dps_dsg-20      # a run
python scripts/report.py RUN RUN ... --out report.html           # several
python scripts/report.py benchmark_small --tables --metrics psnr   # also report.md, report.csv, report.tex
"""

import sys

from dsg.suites.report.main import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], __doc__))
