"""The same network and optimizer in PyTorch, for `train.py`: `train_torch.py MEMORY PIXELS BATCH CLASSES`.

MEMORY is `plain`, or `kept` to let glibc keep freed memory, as our training does.
"""

import ctypes
import sys
import time

import torch
from torch import nn

BLOCKS = (3, 4, 23, 3)
# The options of our training for glibc: one arena, no blocks by mmap, and all freed memory kept.
MALLOPT = {-8: 1, -4: 0, -1: 2**31 - 1}


class Activated(nn.Sequential):
    """Batch norm, ReLU, convolution."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int) -> None:
        super().__init__(nn.BatchNorm2d(inputs, eps=1e-5, momentum=0.003), nn.ReLU(inplace=True),
                         nn.Conv2d(inputs, outputs, kernel, stride, padding=(kernel - 1) // 2, bias=False))


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, first: bool) -> None:
        super().__init__()
        stride = 2 if first else 1
        self.shortcut = Activated(inputs, outputs, 1, 2) if first else nn.Identity()
        inner = outputs // 4
        self.path = nn.Sequential(Activated(inputs, inner, 1, 1), Activated(inner, inner, 3, stride),
                                  Activated(inner, outputs, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.shortcut(x) + self.path(x)


def resnet(classes: int) -> nn.Module:
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 7, 2, padding=3, bias=False)]
    inputs = 64
    for stage, blocks in enumerate(BLOCKS):
        outputs = 256 * 2**stage
        for index in range(blocks):
            layers.append(Block(inputs, outputs, index == 0))
            inputs = outputs
    return nn.Sequential(*layers, nn.BatchNorm2d(inputs), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(inputs, classes))


def main(memory: str, pixels: int, batch: int, classes: int) -> None:
    if memory == "kept":
        for option, value in MALLOPT.items():
            ctypes.CDLL(None).mallopt(option, value)
    torch.manual_seed(0)
    model = resnet(classes).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
    images = torch.rand(batch, 3, pixels, pixels) * 2 - 1
    labels = (torch.rand(batch, classes) < 0.01).float()
    loss = nn.BCEWithLogitsLoss(reduction="sum")
    for _ in sys.stdin:
        began = time.monotonic()
        optimizer.zero_grad(set_to_none=True)
        (loss(model(images), labels) / batch).backward()
        optimizer.step()
        print(f"seconds {time.monotonic() - began}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
