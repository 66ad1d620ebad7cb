"""Finished runs as one HTML page that works without a network, and as the paper's tables.

python scripts/report.py embedded                                # a suite: results/embedded/report.html
python scripts/report.py results/ffhq256/inpaint/dps_dsg-20      # a run
python scripts/report.py RUN RUN ... --out report.html           # several
python scripts/report.py embedded --tables --metrics psnr ssim   # also report.md, report.csv, report.tex
"""

import sys

from dsg.report.main import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], __doc__))
