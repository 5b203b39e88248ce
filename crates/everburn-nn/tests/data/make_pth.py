"""Writes tiny.pth and nested.pth as torch.save does (PyTorch 1.6 and later), without torch.

A state_dict of a linear layer [2, 3] and its bias in the zip layout: data.pkl refers to each storage by a
persistent id, data/N holds its bytes.
"""
import collections, io, pickle, struct, sys, types, zipfile

torch = types.ModuleType("torch")
utils = types.ModuleType("torch._utils")


def _rebuild_tensor_v2(*arguments):
    raise NotImplementedError


class FloatStorage:
    pass


_rebuild_tensor_v2.__module__ = "torch._utils"
FloatStorage.__module__ = "torch"
utils._rebuild_tensor_v2, torch.FloatStorage, torch._utils = _rebuild_tensor_v2, FloatStorage, utils
sys.modules["torch"], sys.modules["torch._utils"] = torch, utils


class Storage:
    def __init__(self, key, values):
        self.key, self.values = key, values


class Tensor:
    def __init__(self, key, shape, values):
        self.storage, self.shape = Storage(key, values), shape

    def __reduce__(self):
        stride, strides = 1, []
        for side in reversed(self.shape):
            strides.insert(0, stride)
            stride *= side
        hooks = collections.OrderedDict()
        return _rebuild_tensor_v2, (self.storage, 0, self.shape, tuple(strides), False, hooks)


class Pickler(pickle.Pickler):
    def persistent_id(self, thing):
        if isinstance(thing, Storage):
            return "storage", FloatStorage, thing.key, "cpu", len(thing.values)
        return None


def save(path, content, tensors):
    body = io.BytesIO()
    Pickler(body, protocol=2).dump(content)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data.pkl", body.getvalue())
        archive.writestr("archive/byteorder", b"little")
        for tensor in tensors:
            values = tensor.storage.values
            archive.writestr(f"archive/data/{tensor.storage.key}", struct.pack(f"<{len(values)}f", *values))
        archive.writestr("archive/version", b"3\n")


weight = Tensor("0", (2, 3), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
bias = Tensor("1", (2,), [0.5, -0.5])
state = collections.OrderedDict([("head.weight", weight), ("head.bias", bias)])
save("tiny.pth", state, [weight, bias])
save("nested.pth", {"state_dict": state, "epoch": 7}, [weight, bias])
