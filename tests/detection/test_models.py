"""Faster R-CNN on any network: names, stages, freezing, norms, and what ab does with a detector."""

import copy
import io
import multiprocessing
import os
import socket
import warnings

import pytest
import torch
import torchvision
from safetensors.torch import load_file
from torch import nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor
from torchvision.models.feature_extraction import create_feature_extractor
from torchvision.ops.misc import FrozenBatchNorm2d

import accuracy_booster as ab
from accuracy_booster.detection import estimate_gate_norms, faster_rcnn, summary
from accuracy_booster.detection.anchors import anchor_generator
from accuracy_booster.detection.norms import batch_norms, gates_norms
from accuracy_booster.detection.stages import find_stages
from accuracy_booster.surgery import attached

SMALL = {"num_classes": 3, "min_size": 64, "max_size": 96, "rpn_post_nms_top_n_test": 20}
FEW = {**SMALL, "rpn_post_nms_top_n_train": 50, "box_batch_size_per_image": 16}
TINY = "timm/test_resnet"  # stages of 32, 48, 192 and 96 channels
BOXES = [torch.tensor([[8.0, 8, 50, 60], [20, 4, 60, 50]]), torch.zeros(0, 4)]
LABELS = [torch.tensor([1, 2]), torch.zeros(0, dtype=torch.int64)]

pytestmark = [
    pytest.mark.filterwarnings("ignore:the batch norm of the gate"),
    pytest.mark.filterwarnings("ignore:the network has 9 attention modules"),
    pytest.mark.filterwarnings("ignore:The default weight initialization of GoogleNet"),
]


def images(count=2, seed=0, size=(64, 80)):
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(3, *size, generator=generator) for _ in range(count)]


def targets():
    return [{"boxes": b.clone(), "labels": n} for b, n in zip(BOXES, LABELS, strict=True)]


def tiny(**more):
    torch.manual_seed(0)
    network = ab.create_model(TINY, zero_init_last=False)
    return faster_rcnn(network, **{**FEW, "block": "ab", **more})


def learn(model, rate=0.1):
    """One step of SGD; the names of what has a gradient."""
    model.train()
    sum(model(images(), targets()).values()).backward()
    moved = {n for n, p in model.named_parameters() if p.grad is not None}
    torch.optim.SGD([p for p in model.parameters() if p.grad is not None], rate).step()
    return moved


def trainable(model):
    return {name for name, p in model.named_parameters() if p.requires_grad}


def gates_of(names):
    return {name for name in names if ".recalibrate." in name}


def assert_same_boxes(first, second, exact=True):
    for a, b in zip(first, second, strict=True):
        assert len(a["boxes"]) > 0
        for key in ("boxes", "scores", "labels"):
            if exact:
                assert torch.equal(a[key], b[key])
            else:
                torch.testing.assert_close(a[key], b[key], rtol=1e-4, atol=1e-4)


def spread_statistics(model, seed=1):
    """Give batch norms statistics and weights that are not 0 and 1."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if hasattr(module, "running_mean"):
            for name, low in (("running_mean", -0.2), ("running_var", 0.6), ("weight", 0.6)):
                tensor = getattr(module, name).data
                tensor.copy_(torch.rand(tensor.shape, generator=generator) * 0.4 + low)
    return model


def test_it_is_torchvisions_detector_name_by_name_and_bit_by_bit():
    reference = torchvision.models.detection.fasterrcnn_resnet50_fpn(
        weights=None, weights_backbone=None, min_size=64, max_size=96
    )
    model = faster_rcnn("torchvision/resnet50", min_size=64, max_size=96)
    state = reference.state_dict()
    assert list(model.state_dict()) == list(state)
    model.load_state_dict(state)
    with torch.no_grad():
        assert_same_boxes(model.eval()(images()), reference.eval()(images()))


def test_frozen_norms_are_torchvisions_frozen_batch_norms():
    network = torchvision.models.resnet18(norm_layer=FrozenBatchNorm2d)
    reference = FasterRCNN(_resnet_fpn_extractor(spread_statistics(network), 3), **SMALL)
    model = faster_rcnn("torchvision/resnet18", norms="frozen", trainable_layers=3, **SMALL)
    model.load_state_dict(reference.state_dict())
    assert trainable(model) == trainable(reference)
    x = torch.rand(2, 3, 64, 64)
    for mode in (True, False):
        with torch.no_grad():
            found, known = model.train(mode).backbone(x), reference.train(mode).backbone(x)
        for key, value in known.items():
            torch.testing.assert_close(found[key], value, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        assert_same_boxes(model.eval()(images()), reference.eval()(images()), exact=False)


@pytest.mark.parametrize("count", range(6))
def test_layers_are_frozen_as_torchvision_does(count):
    network = torchvision.models.resnet18()
    reference = FasterRCNN(_resnet_fpn_extractor(network, count), **SMALL)
    model = faster_rcnn(network_of_18(), norms="normal", trainable_layers=count, **SMALL)
    assert trainable(model) == trainable(reference)


_made = {}


def network_of_18(block=None):
    if block not in _made:
        _made[block] = ab.create_model("torchvision/resnet18", block=block)
    return _made[block]


def test_gates_add_names_and_change_no_start():
    torch.manual_seed(3)
    plain = faster_rcnn(TINY, **SMALL)
    torch.manual_seed(3)
    boosted = faster_rcnn(TINY, block="ab", **SMALL)
    state, other = plain.state_dict(), boosted.state_dict()
    assert set(other) - set(state) == gates_of(other)
    assert set(state) <= set(other)
    assert all(torch.equal(state[n], other[n]) for n in state)
    sites = {name.partition(".recalibrate.")[0] for name in gates_of(other)}
    assert sites == set(attached(boosted))
    assert len(sites) == 4
    assert all(name.startswith("backbone.body.layer") for name in sites)


NETWORKS = {
    "resnet20": "layer1:16/1 layer2:32/2 layer3:64/4",
    "shufflenet_g3": "maxpool:24/4 layer1:240/8 layer2:480/16 layer3:960/32",
    "torchvision/shufflenet_v2_x0_5": "maxpool:24/4 stage2:48/8 stage3:96/16 conv5:1024/32",
    "torchvision/mnasnet0_5": "layers.8:16/4 layers.9:24/8 layers.11:48/16 layers:1280/32",
    "timm/test_resnet": "layer1:32/4 layer2:48/8 layer3:192/16 layer4:96/32",
    "timm/mobilenetv3_small_050": "blocks.0:8/4 blocks.1:16/8 blocks.3:24/16 blocks:288/32",
    "timm/convnext_atto": "stages.0:40/4 stages.1:80/8 stages.2:160/16 stages:320/32",
}


@pytest.mark.parametrize("name", NETWORKS)
def test_any_network_is_a_backbone_and_all_of_it_learns(name):
    heads = ("fpn", "c4") if name in list(NETWORKS)[-3:] else ("fpn",)
    for head in heads:
        model = faster_rcnn(name, block="ab", head=head, **FEW)
        found = " ".join(f"{s.name}:{s.channels}/{s.stride}" for s in model.stages.stages)
        assert found == NETWORKS[name]
        assert learn(model) == {n for n, _ in model.named_parameters()}  # no head of classes left
        with torch.no_grad():
            assert len(model.eval()(images())) == 2
        inside = [tensor for part in model.parts for tensor in part.tensors]
        own = {n for n in model.state_dict() if n.startswith("backbone.body.") or ".box_head." in n}
        own = {n for n in own if head == "c4" or n.startswith("backbone.body.")}
        assert len(inside) == len(set(inside))
        assert set(inside) == own


@pytest.mark.parametrize(
    ("name", "maps"),
    [
        ("torchvision/mobilenet_v3_large", "features.3 features.6 features.12 features.16"),
        ("torchvision/googlenet", "conv3 inception3b inception4e inception5b"),
    ],
)
def test_maps_are_those_of_torchvisions_extractor(name, maps):
    network = ab.create_model(name).eval()
    model = faster_rcnn(network, **SMALL).eval()
    x = torch.rand(1, 3, 64, 96)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        known = create_feature_extractor(network, maps.split())(x)
        found = model.backbone.body(x)
    assert list(found) == ["0", "1", "2", "3"]
    assert all(torch.equal(a, b) for a, b in zip(found.values(), known.values(), strict=True))


def test_a_module_is_copied_and_stays_a_classifier():
    network = ab.boost(ab.create_model(TINY), "ab").eval()
    x = torch.rand(1, 3, 64, 64)
    before = network(x)
    model = faster_rcnn(network, **SMALL)
    assert torch.equal(network(x), before)
    assert len(attached(model)) == 4
    assert model.backbone.body.fc is None
    assert network.fc is not None


def test_c4_puts_the_last_stage_and_its_gates_into_the_box_head():
    network = spread_statistics(ab.boost(ab.create_model(TINY), "ab")).eval()
    model = faster_rcnn(network, head="c4", **SMALL).eval()
    x = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        (found,) = model.backbone(x).values()
        known = network.forward_features(x).mean((2, 3))
        assert torch.equal(model.roi_heads.box_head(found), known)
    assert found.shape == (2, 192, 4, 4)
    assert model.roi_heads.box_roi_pool.output_size == (14, 14)
    names = {"backbone.body." + n for n in network.state_dict() if not n.startswith("layer4.")}
    names |= {"roi_heads.box_head." + n for n in network.state_dict() if n.startswith("layer4.")}
    names = {n for n in names if ".fc." not in n}
    own = {n for n in model.state_dict() if n.startswith("backbone.") or ".box_head." in n}
    assert own == names
    assert model.rpn.anchor_generator.sizes == ((32, 64, 128, 256, 512),)


def test_anchors_cover_the_same_sizes_on_any_maps():
    assert anchor_generator([4, 8, 16, 32, 64]).sizes == ((32,), (64,), (128,), (256,), (512,))
    assert anchor_generator([2, 4, 8]).sizes == ((16, 32), (64, 128), (256, 512))
    assert faster_rcnn("resnet20", **SMALL).rpn.anchor_generator.sizes[0] == (16, 32)
    assert anchor_generator([16], [(32, 64)]).sizes == ((32, 64),)
    for wrong in ([32], [32, "a"], [(1, 2), (1,)], [0, 4]):
        with pytest.raises(ValueError, match="each of the 2 maps"):
            anchor_generator([4, 8], wrong)


# freezing


@pytest.mark.parametrize("norms", ["frozen", "normal"])
@pytest.mark.parametrize("gates", ["frozen", "trained"])
def test_gates_of_frozen_layers_are_frozen_or_trained_as_asked(gates, norms):
    model = tiny(trainable_layers=2, gates_of_frozen_layers=gates, norms=norms)
    frozen = tuple(f"backbone.body.{n}" for n in ("conv1", "bn1", "layer1", "layer2"))
    state = copy.deepcopy(model.state_dict())
    moved = learn(model)
    assert moved == trainable(model)
    inside = {name for name in model.state_dict() if name.startswith(frozen)}
    assert bool(gates_of(moved & inside)) == (gates == "trained")
    assert moved & inside == gates_of(moved & inside)
    after = model.state_dict()
    changed = {name for name in state if not torch.equal(state[name], after[name])}
    statistics = {n for n in changed if "running_" in n}
    if norms == "frozen":
        assert not statistics
    else:
        assert gates_of(statistics - inside)
        assert (statistics - inside) - gates_of(statistics)
        assert bool(statistics & inside) == (gates == "trained")
        assert statistics & inside == gates_of(statistics & inside)


def test_c4_freezes_the_last_stage_too():
    model = tiny(head="c4", trainable_layers=0, norms="normal")
    state = copy.deepcopy(model.state_dict())
    learn(model)
    own = [n for n in state if n.startswith("backbone.") or ".box_head." in n]
    assert all(torch.equal(state[name], model.state_dict()[name]) for name in own)
    assert all(name.startswith(("rpn.", "roi_heads.box_predictor.")) for name in trainable(model))


def test_the_summary_counts_every_parameter_once():
    model = tiny(trainable_layers=2, norms="normal")
    lines = summary(model)
    rows = {line[:9].strip(): line[9:].split() for line in lines[1:]}
    assert list(rows) == [
        *("stem", "layer1", "layer2", "layer3", "layer4", "FPN", "RPN", "box head", "all")
    ]
    counts = {n: [int(cell.replace(",", "")) for cell in row[:4]] for n, row in rows.items()}
    every = list(model.parameters())
    assert counts["all"][0] == sum(p.numel() for p in every if p.requires_grad)
    assert sum(counts["all"][:2]) == sum(p.numel() for p in every)
    added = ab.added_parameters(model)
    assert sum(counts["all"][2:]) == sum(p.numel() for p in added)
    assert counts["layer1"][0] == 0
    assert counts["layer1"][3] > 0
    assert counts["layer4"][3] == 0
    assert rows["layer1"][4:] == ["frozen", "frozen"]
    assert rows["layer4"][4:] == ["normal", "normal"]


# norms


def modes(model):
    return {norm.training for norm in batch_norms(model).values()}


def test_frozen_norms_stay_frozen_whatever_is_done_to_the_detector():
    model = tiny(norms="frozen", trainable_layers=5)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    others = {
        "itself": model,
        "copy": copy.deepcopy(model),
        "pickle": torch.load(file, weights_only=False),
        "synchronised": nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(model)),
    }
    for title, other in others.items():
        other.train()
        assert modes(other) == {False}, title
        assert len(attached(other)) == 4
        for module in other.modules():
            module.train()  # one by one: past whoever looks after them
        state = {n: t.clone() for n, t in other.state_dict().items()}
        moved = learn(other)
        assert modes(other) == {False}, title
        after = other.state_dict()
        assert all(torch.equal(after[n], t) for n, t in state.items() if "running_" in n)
        norms = set(batch_norms(other)) - set(gates_norms(other))
        assert not {name.rpartition(".")[0] for name in moved} & norms
        assert any(name.endswith("recalibrate.0.bn.weight") for name in moved)


def test_the_default_is_frozen_for_trained_weights():
    fresh = ab.create_model(TINY)
    assert faster_rcnn(fresh, **SMALL).norms == "normal"
    assert trainable(faster_rcnn(fresh, **SMALL)) == set(dict(tiny(block=None).named_parameters()))
    trained = spread_statistics(fresh)
    model = faster_rcnn(trained, **SMALL)
    assert model.norms == "frozen"
    assert [p.trained for p in model.parts] == [False] * 2 + [True] * 3


def test_gates_that_start_as_the_identity_learn_in_frozen_norms():
    model = tiny(init="identity", norms="frozen", trainable_layers=5)
    estimate_gate_norms(model, [images(8)])
    with torch.no_grad():
        start = model.eval()(images())
        with ab.disabled(model):
            assert_same_boxes(model(images()), start)
    before = {n: p.clone() for n, p in model.named_parameters() if ".recalibrate." in n}
    for _ in range(2):
        learn(model)
        model.zero_grad()
    after = dict(model.named_parameters())
    assert before
    assert all(not torch.equal(after[n], p) for n, p in before.items())


def test_frozen_norms_whose_weight_is_zero_are_warned_of():
    with pytest.warns(UserWarning, match="4 norms .*layer1.0.bn2.* weight zero"):
        faster_rcnn(TINY, norms="frozen", **SMALL)


def means_at(network, norms, batch):
    """What each gate's norm gets, by a hook: [N, C]."""
    found = {}
    hooks = [
        norm.register_forward_pre_hook(lambda m, args, n=n: found.__setitem__(n, args[0]))
        for n, norm in norms.items()
    ]
    with torch.no_grad():
        network.eval()(batch)
    for hook in hooks:
        hook.remove()
    return found


def test_statistics_of_identity_gates_are_exact_after_one_pass():
    model = tiny(init="identity", norms="frozen")
    data = images(6)
    spread_statistics(model.backbone)
    for gate in attached(model).values():
        for norm in batch_norms(gate).values():
            norm.weight.data.zero_()
    flags = {name: m.training for name, m in model.train().named_modules()}
    assert estimate_gate_norms(model, [data[:1], data[1:3], data[3:]]) == 2
    assert flags == {name: m.training for name, m in model.named_modules()}
    state = copy.deepcopy(gates_norms(model))
    assert estimate_gate_norms(model, iter([data])) == 1  # nothing moves any more
    for name, values in means_at(model, gates_norms(model), data).items():
        var, mean = torch.var_mean(values, 0)
        for norm in (gates_norms(model)[name], state[name]):
            torch.testing.assert_close(norm.running_mean, mean)
            torch.testing.assert_close(norm.running_var, var, rtol=1e-4, atol=1e-7)
    with pytest.raises(ValueError, match="two images"):
        estimate_gate_norms(model, [data[:1]])


def test_statistics_of_other_gates_settle_front_to_back():
    model = tiny(norms="frozen", head="c4")
    spread_statistics(model)
    bytes_ = [(image * 255).round().byte() for image in images(6)]
    assert 1 < estimate_gate_norms(model, [bytes_]) <= 6
    assert estimate_gate_norms(model, [bytes_]) == 1
    norms = gates_norms(model.backbone)
    for name, values in means_at(model, norms, [image / 255 for image in bytes_]).items():
        var, mean = torch.var_mean(values, 0)
        assert ((norms[name].running_mean - mean).abs() < 0.02 * (var + 1e-5).sqrt()).all()
    assert estimate_gate_norms(faster_rcnn(TINY, **SMALL), [images()]) == 0


def _rank(rank, port, model, batch, results):
    os.environ.update({"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)})
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    results.put((rank, _step(model, batch[2 * rank : 2 * rank + 2])))
    torch.distributed.destroy_process_group()


def _step(model, batch):
    """The statistics and one gradient of a pass of the backbone, as lists of numbers."""
    maps = model.train().backbone.body(batch)
    sum(value.square().sum() for value in maps.values()).backward()
    found = {n: t.tolist() for n, t in model.backbone.body.state_dict().items() if "running_" in n}
    return found, model.backbone.body.conv1[0].weight.grad.tolist()


@pytest.mark.forks
def test_synchronised_norms_see_the_images_of_all_processes():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    model, batch = tiny(norms="synchronised"), torch.rand(4, 3, 64, 64)
    ranks = [
        context.Process(target=_rank, args=(r, port, copy.deepcopy(model), batch, results))
        for r in (0, 1)
    ]
    for process in ranks:
        process.start()
    found = dict(results.get(timeout=60) for _ in ranks)
    for process in ranks:
        process.join(60)
    known, gradient = _step(model, batch)
    assert known.keys() == found[0][0].keys()
    assert len(gates_of(known)) == 8
    for statistics, _ in found.values():
        for name, values in known.items():
            torch.testing.assert_close(
                torch.tensor(statistics[name]), torch.tensor(values), rtol=1e-3, atol=1e-5
            )
    total = torch.tensor(found[0][1]) + torch.tensor(found[1][1])
    torch.testing.assert_close(total, torch.tensor(gradient), rtol=1e-2, atol=1e-2)


# what ab does with a detector


@pytest.mark.parametrize("head", ["fpn", "c4"])
def test_ab_works_on_the_detector(head, tmp_path):
    model = spread_statistics(tiny(head=head)).eval()
    x = images(1)
    with torch.no_grad():
        known = model(x)
        with ab.disabled(model):
            assert not torch.equal(model(x)[0]["scores"], known[0]["scores"])
        ab.save(model, tmp_path / "gates", full=True)
        fresh = ab.load(tiny(head=head, block=None, norms="frozen"), tmp_path / "gates")
        assert modes(fresh.train()) == {False}  # of the gates that came later too
        assert_same_boxes(fresh.eval()(x), known)
        example = ([torch.rand(3, 64, 64)],)
        for change in (ab.fuse, ab.fold):
            changed = change(copy.deepcopy(model), example=example)
            assert_same_boxes(changed.eval()(x), known, exact=False)
        assert_same_boxes(ab.materialize(model)[0].eval()(x), known)
    held = {id(p) for p in model.parameters()}
    added = ab.added_parameters(model)
    assert len(added) == 12
    assert all(id(p) in held for p in added)
    assert not attached(ab.unboost(model))


def test_a_detector_of_torchvision_is_boosted_as_it_is():
    network = torchvision.models.resnet18(norm_layer=FrozenBatchNorm2d)
    detector = FasterRCNN(_resnet_fpn_extractor(network, 3), **FEW)
    names = set(detector.state_dict())
    ab.boost(detector, "ab", init="identity", example=([torch.rand(3, 64, 64)],))
    assert len(attached(detector)) == 8
    assert set(detector.state_dict()) - names == gates_of(detector.state_dict())
    assert len(gates_of(learn(detector))) == 24


def test_a_finished_training_is_a_backbone_with_its_own_block(make_folder, tmp_path):
    folder = make_folder({f"{split}/{c}": 4 for split in ("train", "val") for c in "ab"})
    run = tmp_path / "run"
    options = {"epochs": 1, "batch_size": 8, "device": "cpu", "compile": "off", "output": str(run)}
    ab.train("resnet8", block="ab", data=str(folder), **options)
    for where in (run, str(run)):
        model = faster_rcnn(where, block="ab", **SMALL)
        assert len(attached(model)) == 3
        assert model.norms == "frozen"
    weights = load_file(run / "model.safetensors")
    state = model.backbone.body.state_dict()
    assert set(weights) - set(state) == {"fc.weight", "fc.bias"}
    assert all(torch.equal(weights[name], tensor) for name, tensor in state.items())
    assert model.transform.image_mean != [0.485, 0.456, 0.406]
    for more in ({"block": "se"}, {"block": "none"}, {"pretrained": True}):
        with pytest.raises(ValueError, match=r"trained with block|has the weights"):
            faster_rcnn(run, **SMALL, **more)
    with pytest.raises(ValueError, match="holds no run"):
        faster_rcnn(tmp_path, **SMALL)


# what is refused


class Flat(nn.Module):
    """A network with maps of one size."""

    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 2)

    def forward(self, x):
        return self.fc(self.conv(x).mean((2, 3)))


@pytest.mark.parametrize(
    ("backbone", "options", "message"),
    [
        ("resnet5", {}, "unknown model 'resnet5'; nearest: resnet56"),
        (TINY, {"box_score_tresh": 0.1}, "nearest: box_score_thresh"),
        (TINY, {"num_classes": 1}, "the background counts"),
        (TINY, {"head": "c5"}, "'fpn', 'c4'"),
        (TINY, {"norms": "on"}, "norms='on' must be one of 'auto'"),
        (TINY, {"gates_of_frozen_layers": "no"}, "'frozen', 'trained'"),
        (TINY, {"trainable_layers": 6}, "must be 0"),
        (TINY, {"block": "abb"}, "abb"),
        (TINY, {"block": "design_g"}, "one size"),
        (TINY, {"anchor_sizes": (32,)}, "each of the 5 maps"),
        ("timm/vit_tiny_patch16_224", {}, "vision transformers have one size only"),
        (Flat(), {}, "no two feature maps"),
        (Flat(), {"pretrained": True}, "is for a name"),
        (3, {}, "must be a network's name"),
        ("torchvision/squeezenet1_1", {"block": "ab"}, "where="),
        (ab.create_model("resnet8", in_chans=1), {}, "1 channels"),
        (ab.create_model("resnet8", block="se"), {"block": "ab"}, "has gates of"),
        (nn.DataParallel(Flat()), {}, "model.module"),
    ],
)
def test_what_is_refused(backbone, options, message):
    with pytest.raises(ValueError, match=message):
        faster_rcnn(backbone, **{**SMALL, **options})


class Joined(nn.Module):
    """Its last stage joins two paths, one of which goes through a smaller map."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 4, 3, 2, 1)
        self.c, self.up = nn.Conv2d(4, 4, 3, 4, 1), nn.Upsample(scale_factor=2)
        self.join, self.fc = nn.Conv2d(4, 4, 3, 1, 1), nn.Linear(4, 2)

    def forward(self, x):
        x = self.a(x)
        return self.fc(self.join(self.b(x) + self.up(self.c(x))).mean((2, 3)))


class Skipping(Joined):
    """Its last module reads the map before the last stage beside its input."""

    class Join(nn.Conv2d):
        def forward(self, x, skip):
            return super().forward(x) + skip[:, :, ::2, ::2]

    def __init__(self):
        super().__init__()
        self.join = self.Join(4, 4, 3, 1, 1)

    def forward(self, x):
        x = self.a(x)
        return self.fc(self.join(self.b(x), x).mean((2, 3)))


def test_c4_is_refused_where_no_module_is_the_last_stage():
    with pytest.raises(ValueError, match="use head='fpn'"):
        faster_rcnn(Skipping(), head="c4", **SMALL)
    assert [stage.name for stage in find_stages(Joined()).stages] == ["a", "join"]
    assert learn(faster_rcnn(Joined(), **FEW))
    with pytest.raises(ValueError, match="use head='fpn'"):
        faster_rcnn(Joined(), head="c4", **SMALL)


@pytest.mark.parametrize(("trained", "start"), [(True, "identity"), (False, "paper")])
def test_new_gates_change_nothing_on_trained_weights(trained, start):
    torch.manual_seed(0)
    network = ab.create_model("resnet8", num_classes=10)
    if trained:  # what an untrained network does not have
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.running_mean)
    plain = faster_rcnn(network, **SMALL).eval()
    boosted = faster_rcnn(network, block="ab", **SMALL).eval()
    image = torch.rand(1, 3, 64, 64)
    same = [
        torch.equal(a, b)
        for a, b in zip(
            plain.backbone.body(image).values(), boosted.backbone.body(image).values(), strict=True
        )
    ]
    assert all(same) == (start == "identity")
