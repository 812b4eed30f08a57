"""detectron2's ResNet, written down from its ``modeling/backbone/resnet.py``: its modules' names, shapes and strides.

detectron2 is on no package index, so this stands in for it. Below an FPN, it is ``backbone.bottom_up``.
"""

from torch import nn
from torch.nn import functional


class Conv2d(nn.Conv2d):
    """detectron2's ``layers.Conv2d``: a convolution that owns the batch norm behind it."""

    def __init__(self, inputs, outputs, side, stride=1):
        super().__init__(inputs, outputs, side, stride, side // 2, bias=False)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, maps):
        return self.norm(super().forward(maps))


class Bottleneck(nn.Module):
    """``BottleneckBlock`` with ``stride_in_1x1=False``."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        narrow = outputs // 4
        self.shortcut = Conv2d(inputs, outputs, 1, stride) if inputs != outputs else None
        self.conv1, self.conv2 = Conv2d(inputs, narrow, 1), Conv2d(narrow, narrow, 3, stride)
        self.conv3 = Conv2d(narrow, outputs, 1)

    def forward(self, maps):
        inner = self.conv3(functional.relu(self.conv2(functional.relu(self.conv1(maps)))))
        return functional.relu(inner + (maps if self.shortcut is None else self.shortcut(maps)))


class Basic(nn.Module):
    """``BasicBlock``."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.shortcut = Conv2d(inputs, outputs, 1, stride) if inputs != outputs else None
        self.conv1, self.conv2 = Conv2d(inputs, outputs, 3, stride), Conv2d(outputs, outputs, 3)

    def forward(self, maps):
        inner = self.conv2(functional.relu(self.conv1(maps)))
        return functional.relu(inner + (maps if self.shortcut is None else self.shortcut(maps)))


class ResNet(nn.Module):
    """``build_resnet_backbone`` at depth 18 or 50; the features are the pooled maps of ``res5``."""

    def __init__(self, architecture):
        super().__init__()
        block, counts, width = {
            "resnet18": (Basic, (2, 2, 2, 2), 64),
            "resnet50": (Bottleneck, (3, 4, 6, 3), 256),
        }[architecture]
        self.stem = nn.Module()
        self.stem.conv1 = Conv2d(3, 64, 7, 2)
        inputs = 64
        for stage, count in enumerate(counts, 2):
            outputs = width * 2 ** (stage - 2)
            first = block(inputs, outputs, 1 if stage == 2 else 2)
            self.add_module(
                f"res{stage}", nn.Sequential(first, *(block(outputs, outputs, 1) for _ in range(count - 1)))
            )
            inputs = outputs

    def forward(self, images):
        maps = functional.max_pool2d(functional.relu(self.stem.conv1(images)), 3, 2, 1)
        for stage in (2, 3, 4, 5):
            maps = self.get_submodule(f"res{stage}")(maps)
        return maps.mean((2, 3))
