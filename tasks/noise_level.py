"""The noise level of measured images that come without one."""

from collections.abc import Sequence

import numpy as np

from dsg.types import Input, to_tensor

MOST = 8  # images that are asked, so that the answer does not depend on data.limit above it
ROUNDING = 2 / 255 / 12**0.5  # of 8-bit files, in units of [-1, 1]: no less is assumed


def estimate_sigma(inputs: Sequence[Input]) -> float:
    """Standard deviation of the noise in measurements, in units of [-1, 1], two digits: the median over images.

    Of each image, the median absolute wavelet coefficient of the finest scale (Donoho & Johnstone, Biometrika 1994;
    `skimage.restoration.estimate_sigma`). Detail counts as noise, so that it is an upper bound on sharp images; what
    JPEG removed does not count.
    """
    from skimage.restoration import estimate_sigma as of_image

    found = []
    for one in inputs[:MOST]:
        image = to_tensor([one.measurement])[0].permute(1, 2, 0).numpy()
        if one.mask is not None:  # a flat hole has coefficients of exactly 0, which are not counted
            image = image * one.mask[0, 0, :, :, None].numpy()
        found.append(np.nan_to_num(of_image(image, channel_axis=-1, average_sigmas=True)))
    return max(float(f"{np.median(found):.2g}"), round(ROUNDING, 4))
