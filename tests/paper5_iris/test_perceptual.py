"""LPIPS on a small random stand-in for VGG16: its structure, and all ways in which weights can be missing."""

import sys
from types import ModuleType
from urllib.error import URLError

import pytest
import torch
from torch import nn

from common.config import override
from common.errors import UserError
from paper5_iris import perceptual
from paper5_iris.perceptual import TAPS, Perceptual, load_perceptual
from paper5_iris.presets import PRESETS

WIDTHS = (
    2,
    2,
    "M",
    3,
    3,
    "M",
    4,
    4,
    4,
    "M",
    5,
    5,
    5,
    "M",
    5,
    5,
    5,
    "M",
)  # VGG16's are 64, 128, 256, 512, 512
URL = "https://download.pytorch.org/models/vgg16-397923af.pth"


def stand_in(**kwargs) -> nn.Module:
    """VGG16 with few channels: the same layers in the same places."""
    layers, inputs = [], 3
    for width in WIDTHS:
        if width == "M":
            layers.append(nn.MaxPool2d(2))
        else:
            layers += [nn.Conv2d(inputs, width, 3, padding=1), nn.ReLU(inplace=True)]
            inputs = width
    net = nn.Module()
    net.features, net.classifier = nn.Sequential(*layers), nn.Linear(5, 2)
    return net


def make(dropout: bool = False) -> Perceptual:
    torch.manual_seed(0)
    heads = [torch.rand(width) for width in (2, 3, 4, 5, 5)]
    return Perceptual(stand_in().features[:30], heads, dropout=dropout)


def pictures(channels: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    return tuple(torch.rand(4, channels, 32, 32) * 2 - 1 for _ in range(2))


# --- structure


def test_by_hand():
    loss, (a, b) = make(), pictures()
    total, x = 0.0, {}
    for name, picture in (("a", a), ("b", b)):
        shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
        x[name] = (picture - shift.view(1, 3, 1, 1)) / scale.view(1, 3, 1, 1)
    names = iter(loss.heads)
    for i, layer in enumerate(loss.trunk):
        x = {name: layer(value) for name, value in x.items()}
        if i in (3, 8, 15, 22, 29):  # behind the ReLUs 1_2, 2_2, 3_3, 4_3 and 5_3
            unit = {name: v / (v.norm(dim=1, keepdim=True) + 1e-10) for name, v in x.items()}
            weight = next(names).view(1, -1, 1, 1)
            total = total + ((unit["a"] - unit["b"]) ** 2 * weight).sum(1).mean((1, 2))
    torch.testing.assert_close(loss(a, b), total)
    assert total.shape == (4,) and next(names, None) is None
    assert all(isinstance(loss.trunk[i], nn.ReLU) for i in TAPS)


def test_zero_at_identity_symmetric_never_negative():
    loss, (a, b) = make(), pictures()
    assert not loss(a, a).any() and (loss(a, b) > 0).all()
    torch.testing.assert_close(loss(a, b), loss(b, a))
    gray, other = pictures(channels=1)
    torch.testing.assert_close(
        loss(gray, other), loss(gray.expand(-1, 3, -1, -1), other.expand(-1, 3, -1, -1))
    )


def test_the_gradient_goes_to_the_decoded_picture_alone():
    loss, (a, b) = make(), pictures()
    a.requires_grad_()
    b.requires_grad_()
    loss(a, b).sum().backward()
    assert a.grad is None and b.grad.isfinite().all() and b.grad.any()
    assert all(p.grad is None and not p.requires_grad for p in loss.trunk.parameters())


def test_features_that_are_all_zero_have_a_finite_gradient():
    loss, (a, b) = make(), pictures()
    for layer in loss.trunk:
        if isinstance(layer, nn.Conv2d):
            nn.init.constant_(layer.bias, -10.0)
    b.requires_grad_()
    loss(a, b).sum().backward()
    assert b.grad.isfinite().all()


def test_it_is_in_eval_mode_in_no_checkpoint_and_not_trained():
    class Owner(nn.Module):
        def __init__(self):
            super().__init__()
            self.loss = make()

    owner, (a, b) = Owner().train(), pictures()
    assert not owner.state_dict() and not list(owner.parameters())
    assert not any(part.training for part in owner.loss.trunk.modules())
    assert torch.equal(owner.loss(a, b), owner.loss(a, b))


def test_dropout_of_the_authors_is_a_switch():
    (a, b), loss = pictures(), make(dropout=True)
    assert not torch.equal(loss(a, b), loss(a, b))
    mean = torch.stack([loss(a, b) for _ in range(60)]).mean(0)
    torch.testing.assert_close(mean, make()(a, b), atol=0, rtol=0.1)


# --- loading


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """torchvision with the stand-in, the lpips package with heads for it, weights in torch's cache."""
    models = ModuleType("torchvision.models")
    models.vgg16 = stand_in
    models.VGG16_Weights = type("W", (), {"IMAGENET1K_V1": type("V", (), {"url": URL})})
    vision = ModuleType("torchvision")
    vision.models = models
    monkeypatch.setitem(sys.modules, "torchvision", vision)
    monkeypatch.setitem(sys.modules, "torchvision.models", models)
    package = tmp_path / "site" / "lpips"
    (package / "weights" / "v0.1").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('must not be imported')")
    heads = {f"lin{i}.model.1.weight": torch.rand(1, n, 1, 1) for i, n in enumerate((2, 3, 4, 5, 5))}
    torch.save(heads, package / "weights" / "v0.1" / "vgg.pth")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.delitem(sys.modules, "lpips", raising=False)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    cache = tmp_path / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    torch.save(stand_in().state_dict(), cache / "vgg16-397923af.pth")
    return tmp_path


def load(kind: str = "auto", file=None, channels: int = 3, **more):
    values = {"perceptual": kind, "perceptual_weights": file and str(file), **more}
    return load_perceptual(override(PRESETS["paper"], values), channels, "cpu")


def refused(*args, **kwargs) -> str:
    with pytest.raises(UserError) as error:
        load(*args, **kwargs)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("kind", ["auto", "on"])
def test_weights_that_are_there_are_taken(machine, kind):
    loss, line = load(kind)
    state = torch.load(machine / "hub" / "checkpoints" / "vgg16-397923af.pth", weights_only=True)
    assert torch.equal(loss.trunk[0].weight, state["features.0.weight"])
    assert torch.equal(loss.trunk[28].bias, state["features.28.bias"]) and len(loss.trunk) == 30
    head = torch.load(machine / "site/lpips/weights/v0.1/vgg.pth", weights_only=True)["lin4.model.1.weight"]
    assert torch.equal(loss.heads[4], head.flatten()) and not loss.dropout
    assert line == "perceptual loss: LPIPS with VGG16; pixel loss l1"
    assert load(kind, **{"tokenizer.pixel_loss": "l2"})[1].endswith("pixel loss l2")
    assert load(kind, **{"tokenizer.lpips_dropout": True})[0].dropout


def test_a_file_of_ones_own(machine):
    for name, state in (("whole", stand_in().state_dict()), ("part", stand_in().features.state_dict())):
        torch.save(state, machine / f"{name}.pth")
        loss, _ = load("auto", machine / f"{name}.pth")
        expected = state["features.0.weight" if name == "whole" else "0.weight"]
        assert torch.equal(loss.trunk[0].weight, expected)


def test_off_says_which_pixel_loss_replaces_it(machine):
    assert load("off") == (None, "perceptual loss: off; pixel loss l1+l2")
    loss, line = load("off", **{"tokenizer.pixel_loss": "l2"})
    assert loss is None and line.endswith("pixel loss l2")


def test_without_weights_auto_goes_on_and_never_downloads(machine, monkeypatch):
    (machine / "hub" / "checkpoints" / "vgg16-397923af.pth").unlink()
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", lambda *_, **__: pytest.fail("a download"))
    loss, line = load("auto")
    assert loss is None and "\n" not in line
    assert line.startswith("perceptual loss: off, for VGG16's weights are not in") and "528 MB" in line
    assert line.endswith("pixel loss l1+l2")


def test_on_downloads_or_says_why_not(machine, monkeypatch):
    file = machine / "hub" / "checkpoints" / "vgg16-397923af.pth"
    file.unlink()

    def no_network(url, **kwargs):
        assert url == URL and kwargs == {"weights_only": True}
        raise URLError("no route to\nhost")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", no_network)
    line = refused("on")
    assert (
        "could not be fetched" in line and "--perceptual-weights FILE" in line and "--perceptual off" in line
    )
    monkeypatch.setattr(
        torch.hub, "load_state_dict_from_url", lambda url, **_: torch.save(stand_in().state_dict(), file)
    )
    assert load("on")[0] is not None


def test_a_missing_package_is_named(machine, monkeypatch):
    monkeypatch.setattr(perceptual.importlib.util, "find_spec", lambda name: None)
    assert "pip install lpips" in refused("on")
    assert "pip install lpips" in refused("auto", machine / "any.pth")  # a file was asked for
    assert load("auto")[0] is None
    monkeypatch.undo()


@pytest.mark.parametrize("error", [ImportError("no module"), RuntimeError("operator nms\ndoes not exist")])
def test_a_torchvision_that_cannot_be_imported(machine, monkeypatch, error):
    class Broken(ModuleType):
        def __getattr__(self, name):
            raise error

    monkeypatch.setitem(sys.modules, "torchvision", Broken("torchvision"))
    monkeypatch.delitem(sys.modules, "torchvision.models")
    line = refused("on")
    assert "torchvision" in line and torch.__version__ in line
    loss, line = load("auto")
    assert loss is None and "torchvision" in line and "\n" not in line


def test_files_that_are_missing_torn_hostile_or_of_something_else(machine):
    assert "is missing" in refused("auto", machine / "nothing.pth")
    (machine / "torn.pth").write_bytes(b"PK\x03\x04 half a file")
    assert "cannot be read as tensors" in refused("on", machine / "torn.pth")

    class Evil:
        def __reduce__(self):
            return (pytest.fail, ("it was run",))

    torch.save({"features.0.weight": Evil()}, machine / "evil.pth")
    assert "cannot be read as tensors" in refused("on", machine / "evil.pth")
    for name, data in (("list", [1, 2]), ("other", {"features.0.weight": torch.zeros(7)}), ("empty", {})):
        torch.save(data, machine / f"{name}.pth")
        line = refused("on", machine / f"{name}.pth")
        assert "is no state dict of VGG16 (features.0.weight is missing or of another shape)" in line
    torch.save({"lin0": 1}, machine / "site/lpips/weights/v0.1/vgg.pth")
    assert "does not hold the heads of VGG16" in refused("on")
    (machine / "site/lpips/weights/v0.1/vgg.pth").unlink()
    assert "pip install lpips==0.1.4" in refused("on")


def test_pictures_with_other_channels(machine):
    assert "2 channels" in refused("on", channels=2)
    loss, line = load("auto", channels=2)
    assert loss is None and "2 channels" in line
