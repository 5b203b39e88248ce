"""Makes steps.safetensors: six steps of OnPro's official training loop, in 64 bits on a CPU.

Run in a checkout of weilllllls/OnPro at a92f8ae, with torch, numpy and safetensors: python make.py OUT.safetensors.
"""

import argparse
import json
import sys
import types

import numpy as np
import torch

torch.set_default_dtype(torch.float64)
torch.Tensor.cuda = lambda self, *a, **k: self
torch.nn.Module.cuda = lambda self, *a, **k: self


class RandomMixUpV2(torch.nn.Module):
    """What the loop asks of kornia where nothing is mixed."""

    def __init__(self, p, **_):
        super().__init__()
        assert p == 0.0

    def forward(self, x, y):
        y = y.to(x.dtype)
        return x, torch.stack([y, y, torch.zeros_like(y)], dim=1)


sys.modules["kornia"] = types.ModuleType("kornia")
sys.modules["kornia.augmentation"] = types.ModuleType("kornia.augmentation")
sys.modules["kornia.augmentation"].RandomMixUpV2 = RandomMixUpV2

from models.Resnet18 import BasicBlock, ResNet  # noqa: E402
from models.buffer import Buffer  # noqa: E402
from safetensors.torch import save_file  # noqa: E402
from train import TrainLearner  # noqa: E402

torch.manual_seed(5)
np.random.seed(5)
filters, width, classes, side, batch, batches = 2, 15, 4, 8, 5, 3

model = ResNet(BasicBlock, [2, 2, 2, 2], classes, filters)
# One number less than the features, so that there is one place for the slice of them.
model.simclr = torch.nn.Linear(8 * filters, width)
for parameter in model.parameters():
    parameter.data = parameter.data.float().double()

args = argparse.Namespace(
    oop=16, ins_t=0.07, proto_t=0.5, dataset="cifar10", buffer_size=60, buffer_batch_size=64, n_classes=classes,
    mixup_base_rate=1.0, mixup_p=0.0, mixup_lower=0, mixup_upper=0.6, mixup_alpha=0.4)
buffer = Buffer(args, [3, side, side])
buffer.bx = buffer.bx.double()
optimizer = torch.optim.Adam(model.parameters(), lr=5e-4, betas=(0.9, 0.99), weight_decay=1e-4)
agent = TrainLearner(model, buffer, optimizer, classes, 2, [3, side, side], args, fea_dim=width)
agent.transform = lambda x: x.detach()  # a view is the image itself
losses = []
agent.scaler = types.SimpleNamespace(
    scale=lambda loss: losses.append(loss.item()) or loss, step=lambda optimizer: optimizer.step(), update=lambda: None)

own = lambda name: not name.startswith(("_features", "classifier"))
weights = lambda prefix: {prefix + k: v.clone() for k, v in model.state_dict().items() if own(k)}
out = {k: v.float() if v.is_floating_point() else v for k, v in weights("begin.").items()}

pixels = torch.randint(0, 256, (2 * batches * batch, 3, side, side))
of_task = lambda t: torch.tensor(np.random.permutation([2 * t + i % 2 for i in range(batches * batch)]))
labels = torch.cat([of_task(t) for t in range(2)])
images = (pixels.double() / 255 - 0.5) / 0.5


def loader(task):
    for number in range(batches):
        first = (task * batches + number) * batch
        # A draw is the whole memory.
        agent.buffer_batch_size = agent.buffer_per_class = max(1, buffer.current_index)
        yield images[first:first + batch].clone(), labels[first:first + batch].clone()


for task in range(2):
    agent.train(task, loader(task))
    model.eval()
    out[f"logits.{task}"] = model(images).detach()
    model.train()

out.update(weights("end."))
out["pixels"] = pixels.permute(0, 2, 3, 1)
out["labels"] = labels
out["losses"] = torch.tensor(losses)
out["means"] = agent.classes_mean.detach()
hyper = {"batch": batch, "batches": batches, "classes": classes, "filters": filters, "width": width, "side": side}
versions = {"torch": torch.__version__, "weilllllls/OnPro": "a92f8ae"}
metadata = {"case": "onpro, six steps", "hyper": hyper, "versions": versions}
save_file({k: v.contiguous().clone() for k, v in out.items()}, sys.argv[1],
          metadata={k: json.dumps(v) for k, v in metadata.items()})
print(losses)
