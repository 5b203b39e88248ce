"""PyTorch's side of compare.py: reads lines `BACKBONE WORK BATCH STEPS`, answers each with the seconds of every step.

The same work as benches/src/bin/peer.rs: 8-bit pixels to logits, or to updated parameters and the loss as a number.
The ViTs are timm's; the reduced ResNet-18 is that of Lopez-Paz & Ranzato (2017).
"""

import sys
import time

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import nn

CLASSES = 100
VITS = {
    "vit-128x6": (32, 4, 128, 6, 4),
    "vit-192x6": (32, 4, 192, 6, 3),
    "vit-768x2": (224, 16, 768, 2, 12),
}


class BasicBlock(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x):
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


class ResNet18(nn.Module):
    def __init__(self, nf):
        super().__init__()
        self.conv1 = nn.Conv2d(3, nf, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(nf)
        blocks, inputs = [], nf
        for width, stride in [(nf, 1), (2 * nf, 2), (4 * nf, 2), (8 * nf, 2)]:
            blocks += [BasicBlock(inputs, width, stride), BasicBlock(width, width, 1)]
            inputs = width
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(8 * nf, CLASSES)

    def forward(self, x):
        x = self.blocks(F.relu(self.bn1(self.conv1(x))))
        return self.head(x.mean(dim=(2, 3)))


class Case:
    def __init__(self, name, work, batch):
        torch.manual_seed(0)
        if name in VITS:
            image, patch, dim, depth, heads = VITS[name]
            self.model = VisionTransformer(
                img_size=image, patch_size=patch, embed_dim=dim, depth=depth, num_heads=heads, num_classes=CLASSES
            )
        else:
            image, self.model = 32, ResNet18(20)
        self.work = work
        for path, parameter in self.model.named_parameters():
            head = path.startswith("head")
            wanted = {"full": True, "bias": path.endswith("bias") or head, "head": head, "infer": False}
            parameter.requires_grad_(wanted[work])
        trained = [p for p in self.model.parameters() if p.requires_grad]
        if work == "infer":
            self.model.eval()
        elif name in VITS:
            self.optimiser = torch.optim.AdamW(trained, lr=1e-3, weight_decay=0.01)
        else:
            self.optimiser = torch.optim.SGD(trained, lr=1e-3, weight_decay=0.01)
        self.images = torch.randint(0, 256, (batch, image, image, 3), dtype=torch.uint8)
        self.labels = torch.arange(batch) % CLASSES
        self.mean = torch.full((1, 3, 1, 1), 0.5)

    def pixels(self):
        images = self.images.permute(0, 3, 1, 2).float() / 255.0
        return (images - self.mean) / self.mean

    def step(self):
        if self.work == "infer":
            with torch.inference_mode():
                return self.model(self.pixels()).numpy()[0, 0]
        self.optimiser.zero_grad()
        loss = F.cross_entropy(self.model(self.pixels()), self.labels)
        loss.backward()
        self.optimiser.step()
        return loss.item()


def main():
    last, case = None, None
    print(torch.__version__, torch.get_num_threads(), flush=True)
    for line in sys.stdin:
        name, work, batch, steps = line.split()
        if (name, work, batch) != last:
            case, last = Case(name, work, int(batch)), (name, work, batch)
        times = []
        for _ in range(int(steps)):
            began = time.perf_counter()
            case.step()
            times.append(time.perf_counter() - began)
        print(*times, flush=True)


if __name__ == "__main__":
    main()
