"""Networks as detectors are written: an Ultralytics-like graph of modules with `.f` and `.i`, and a head with DFL."""

import torch
from torch import nn


class Conv(nn.Module):
    def __init__(self, inputs, outputs, kernel=1, stride=1, groups=1, act=True):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.bn, self.act = nn.BatchNorm2d(outputs), nn.SiLU() if act else nn.Identity()

    def forward(self, x):
        return self.act(self.bn(self.conv(x)))


class Bottleneck(nn.Module):
    def __init__(self, channels, add=True):
        super().__init__()
        self.cv1, self.cv2, self.add = Conv(channels, channels, 3), Conv(channels, channels, 3), add

    def forward(self, x):
        return x + self.cv2(self.cv1(x)) if self.add else self.cv2(self.cv1(x))


class C3k(nn.Module):
    def __init__(self, channels):
        super().__init__()
        half = channels // 2
        self.cv1, self.cv2, self.cv3 = Conv(channels, half), Conv(channels, half), Conv(2 * half, channels)
        self.m = nn.Sequential(Bottleneck(half), Bottleneck(half))

    def forward(self, x):
        return self.cv3(torch.cat((self.m(self.cv1(x)), self.cv2(x)), 1))


class C2f(nn.Module):
    """YOLOv8's block; with `inner` C3k it is YOLO11's C3k2."""

    def __init__(self, inputs, outputs, count=1, add=True, inner=None):
        super().__init__()
        self.c = outputs // 2
        self.cv1, self.cv2 = Conv(inputs, 2 * self.c), Conv((2 + count) * self.c, outputs)
        self.m = nn.ModuleList(inner(self.c) if inner else Bottleneck(self.c, add) for _ in range(count))

    def forward(self, x):
        parts = list(self.cv1(x).chunk(2, 1))
        parts.extend(block(parts[-1]) for block in self.m)
        return self.cv2(torch.cat(parts, 1))


class SPPF(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.cv1, self.cv2 = Conv(channels, channels // 2), Conv(channels * 2, channels)
        self.m = nn.MaxPool2d(5, 1, 2)

    def forward(self, x):
        maps = [self.cv1(x)]
        maps.extend(self.m(maps[-1]) for _ in range(3))
        return self.cv2(torch.cat(maps, 1))


class Concat(nn.Module):
    def forward(self, x):
        return torch.cat(x, 1)


class DFL(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(16, 1, 1, bias=False)
        self.conv.weight.data[:] = torch.arange(16.0).view(1, 16, 1, 1)

    def forward(self, x):
        batch, _, places = x.shape
        return self.conv(x.view(batch, 4, 16, places).transpose(2, 1).softmax(1)).view(batch, 4, places)


class Detect(nn.Module):
    """In training mode the maps alone, else boxes and scores beside them."""

    def __init__(self, channels, classes):
        super().__init__()
        self.cv2 = nn.ModuleList(nn.Sequential(Conv(c, 64, 3), Conv(64, 64, 3), nn.Conv2d(64, 64, 1)) for c in channels)
        self.cv3 = nn.ModuleList(
            nn.Sequential(Conv(c, 32, 3), Conv(32, 32, 3), nn.Conv2d(32, classes, 1)) for c in channels
        )
        self.dfl = DFL()

    def forward(self, x):
        maps = [torch.cat((self.cv2[i](one), self.cv3[i](one)), 1) for i, one in enumerate(x)]
        if self.training:
            return maps
        flat = torch.cat([one.flatten(2) for one in maps], 2)
        return torch.cat((self.dfl(flat[:, :64]), flat[:, 64:].sigmoid()), 1), maps


class Yolo(nn.Module):
    """Modules in order; each reads the output of its `f` (−1: the one before) and is kept if its `i` is asked for."""

    def __init__(self, classes=5):
        super().__init__()
        spec = [
            (-1, Conv(3, 16, 3, 2)), (-1, Conv(16, 32, 3, 2)), (-1, C2f(32, 32)), (-1, Conv(32, 64, 3, 2)),
            (-1, C2f(64, 64, 2)), (-1, Conv(64, 96, 3, 2)), (-1, C2f(96, 96, inner=C3k)), (-1, SPPF(96)),
            (-1, nn.Upsample(scale_factor=2)), ([-1, 4], Concat()), (-1, C2f(160, 64, add=False)),
            (-1, Conv(64, 64, 3, 2)), ([-1, 7], Concat()), (-1, C2f(160, 96, inner=C3k)),
            ([10, 13], Detect((64, 96), classes)),
        ]  # fmt: skip
        for number, (source, module) in enumerate(spec):
            module.f, module.i = source, number
        self.model, self.save = nn.Sequential(*(module for _, module in spec)), {4, 7, 10, 13}

    def forward(self, x):
        kept = []
        for module in self.model:
            if module.f != -1:
                x = kept[module.f] if isinstance(module.f, int) else [x if j == -1 else kept[j] for j in module.f]
            x = module(x)
            kept.append(x if module.i in self.save else None)
        return x


def yolo():
    torch.manual_seed(0)
    return Yolo().eval()
