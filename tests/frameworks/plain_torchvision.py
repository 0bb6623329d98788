"""Lets torchvision be imported beside a PyTorch of another build: import this first.

torchvision of PyPI is built for PyTorch with CUDA.  Beside one without, its operators are missing, and it does not even
import, though its data sets and transforms need none of them.  There, those are declared that it describes at its
import.
"""

from importlib.metadata import version

import torch

if torch.version.cuda is None and "+" not in version("torchvision"):
    for name in ("nms", "qnms"):
        torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
