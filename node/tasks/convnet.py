"""The one image classifier of the built-in tasks."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn


def convnet(side: int, width: int, hidden: int, classes: int = 10) -> nn.Sequential:
    """Build two 3x3 convolutions with BatchNorm and two linear layers for grey images of side x side.

    Images of 16 pixels and more are halved after the first convolution too. No dropout.
    """
    early = 2 if side >= 16 else 1
    grid = side // early // 2
    return nn.Sequential(
        OrderedDict[str, nn.Module](
            conv1=nn.Conv2d(1, width, 3, padding=1, bias=False),
            norm1=nn.BatchNorm2d(width),
            relu1=nn.ReLU(),
            pool1=nn.MaxPool2d(early),
            conv2=nn.Conv2d(width, 2 * width, 3, padding=1, bias=False),
            norm2=nn.BatchNorm2d(2 * width),
            relu2=nn.ReLU(),
            pool2=nn.MaxPool2d(2),
            flat=nn.Flatten(),
            linear1=nn.Linear(2 * width * grid * grid, hidden),
            relu3=nn.ReLU(),
            linear2=nn.Linear(hidden, classes),
        )
    )
