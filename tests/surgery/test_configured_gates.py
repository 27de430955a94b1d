"""A network that is built from the configuration of a boosted one has the same gates."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
import threading
import warnings
from collections import OrderedDict

import pytest
import torch
import yaml
from support.configured import Base, Config, FromDict, Head
from torch import nn
from torch.nn.modules import module as module_hooks

import accuracy_booster as ab
from accuracy_booster.surgery import attached
from accuracy_booster.surgery.configurations import KEY, record_in

SIZE = (2, 3, 32, 32)
BLOCKS = ["ab", "se", "cbam", "gap | dense | sigmoid"]


def make_dict(**values):
    return FromDict({"width": 8, "depth": 2, **values})


def configuration(model):
    return getattr(model, "yaml", None) or model.config


def trained(model, block, **options):
    """A boosted network with weights and statistics of its own."""
    ab.boost(model, block, example=torch.zeros(1, *SIZE[1:]), **options)
    for parameter in ab.added_parameters(model):
        nn.init.normal_(parameter, std=0.5)
    model.train()(torch.randn(SIZE))
    return model.eval()


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("make", [lambda: Head(Config()), lambda: Base(Config()), make_dict])
def test_a_network_built_from_the_configuration_is_the_boosted_one(make, block):
    model = trained(make(), block)
    built = type(model)(configuration(model))
    assert list(attached(built)) == list(attached(model))
    assert configuration(built) is configuration(model)
    built.load_state_dict(model.state_dict())
    x = torch.randn(SIZE)
    assert torch.equal(built.eval()(x), model(x))
    for other in (copy.deepcopy(built), pickle.loads(pickle.dumps(built))):
        assert torch.equal(other(x), model(x))


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("make", [lambda: Head(Config()), make_dict])
def test_gates_that_start_as_the_identity_do_so_again(make, block):
    torch.manual_seed(1)
    plain = make()
    model = trained(make(), block, init="identity")
    torch.manual_seed(1)
    built = type(model)(configuration(model))
    x = torch.randn(SIZE)
    assert torch.equal(built(x), plain(x))
    assert len(attached(built)) == 2


def test_the_constructor_initialises_modules_at_the_sites_as_it_does_without_gates():
    built = FromDict(trained(make_dict(), "ab").yaml)
    norms = [m for m in built.modules() if isinstance(m, nn.BatchNorm2d)]
    assert {(norm.eps, norm.momentum) for norm in norms} == {(1e-3, 0.03)}


def test_a_classifier_and_its_base_are_built_from_each_other_s_configuration():
    x = torch.randn(SIZE)
    head = trained(Head(Config()), "ab")
    base = Base(head.config)
    assert [f"base.{name}" for name in attached(base)] == list(attached(head))
    base.load_state_dict(head.base.state_dict())
    assert torch.equal(base.eval()(x), head.base(x))
    again = Head(base.config)
    assert list(attached(again)) == list(attached(head))
    assert again.config is again.base.config
    assert record_in(again.config) == ab.gate_record(again)


def test_what_is_built_can_be_unboosted_saved_and_boosted_again(tmp_path):
    model = trained(make_dict(), "ab")
    built = FromDict(model.yaml)
    built.load_state_dict(model.state_dict())
    ab.save(built, tmp_path, full=True)
    loaded = ab.load(make_dict(), tmp_path).eval()
    x = torch.randn(SIZE)
    assert torch.equal(loaded(x), model(x))
    ab.unboost(built)
    assert KEY not in built.yaml
    assert KEY in model.yaml
    assert not attached(FromDict(built.yaml))
    ab.boost(built, "se", example=x[:1])
    assert list(ab.gate_record(FromDict(built.yaml))["recipes"]) == [
        "gap | bottleneck(16) | sigmoid"
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 12}, r"'model.1.bn2' has 12 channels and its gate 8; delete the key"),
        ({"depth": 1}, r"unknown module 'model.2.bn2'"),
        ({KEY: {"sites": 3}}, "it is no record of gates"),
        ({KEY: 5}, "a record of gates is a dict, not int"),
    ],
)
def test_a_configuration_whose_gates_do_not_fit_is_refused(change, message):
    cfg = trained(make_dict(), "ab").yaml | change
    with pytest.raises(ValueError, match=message) as error:
        FromDict(cfg)
    assert "DetectionModel" not in str(error.value)
    assert "boost it anew" in str(error.value)
    del cfg[KEY]
    assert not attached(FromDict(cfg))


def test_a_record_of_another_network_is_refused_when_the_network_is_used():
    config = Config(**{KEY: trained(make_dict(), "ab").yaml[KEY]})
    model = Head(config)
    for _ in range(2):
        with pytest.raises(ValueError, match=r"gates.*do not fit it: unknown module 'model.1.bn2'"):
            model(torch.zeros(SIZE))


def test_attention_is_replaced_again():
    timm = pytest.importorskip("timm", exc_type=ImportError)

    class Attentive(nn.Module):
        def __init__(self, cfg):
            super().__init__()
            self.yaml = cfg
            self.model = timm.create_model("test_efficientnet", num_classes=3)

        def forward(self, x):
            return self.model(x)

    model = ab.boost(
        Attentive({"a": 1}), "se", where="attention", example=torch.zeros(1, 3, 64, 64)
    )
    built = Attentive(model.yaml)
    assert built.state_dict().keys() == model.state_dict().keys()
    names = Attentive({}).state_dict().keys()
    assert ab.unboost(built).state_dict().keys() == names


def test_on_the_meta_device_and_in_other_contexts():
    model = trained(Head(Config()), "cbam")
    x = torch.randn(SIZE)
    with torch.device("meta"):
        built = Head(model.config)
        assert {t.device.type for t in built.state_dict().values()} == {"meta"}
    built = built.to_empty(device="cpu")
    built.load_state_dict(model.state_dict())
    assert torch.equal(built.eval()(x), model(x))
    built = Head(model.config)
    with torch.device("meta"):
        assert {t.device.type for t in built.state_dict().values()} == {"cpu"}
    built = Head(model.config)
    with torch.inference_mode():
        built(x)
    built(x).sum().backward()
    assert all(p.grad is not None for p in ab.added_parameters(built))
    built = Head(model.config).double()
    assert {p.dtype for p in ab.added_parameters(built)} == {torch.float64}


def test_a_compiled_network_and_one_that_is_traced():
    cfg = trained(make_dict(), "ab", init="identity").yaml
    x = torch.randn(SIZE)
    torch.manual_seed(2)
    expected = (built := FromDict(cfg).eval())(x)
    torch.manual_seed(2)
    compiled = torch.compile(FromDict(cfg).eval(), backend="eager", fullgraph=True)
    assert torch.equal(compiled(x), expected)
    assert torch.equal(torch.fx.symbolic_trace(built)(x), expected)


def test_a_part_with_a_configuration_of_its_own():
    """As DETR has a backbone from `config.backbone_config`, and rebuilds the norms in it."""

    class Detector(nn.Module):
        def __init__(self, config):
            super().__init__()
            self.config = config
            self.backbone = Base(config.backbone_config)
            for module in list(self.backbone.modules()):
                if "bn2" in module._modules and not hasattr(config, "keeps_norms"):
                    module._modules["bn2"] = nn.BatchNorm2d(config.backbone_config.width)
            self.neck = nn.Conv2d(8, 4, 1)
            for module in self.modules():
                if isinstance(module, nn.Conv2d) and not hasattr(module, "_is_hf_initialized"):
                    nn.init.ones_(module.weight)

        def forward(self, x):
            return self.neck(self.backbone(x))

    base = trained(Base(Config()), "cbam", init="identity")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = Detector(Config(backbone_config=base.config))
        assert len(ab.gate_record(model)["sites"]) == 2
        x = torch.randn(SIZE)
        expected = model(x)
    with ab.disabled(model):
        assert torch.equal(model(x), expected)
    ab.boost(model, "ab", where=["backbone.encoder.0.bn1"], example=x[:1])
    assert ab.gate_record(Detector(model.config)) == ab.gate_record(model)
    for module in Detector(Config(backbone_config=base.config, keeps_norms=True)).modules():
        if isinstance(module, nn.Conv2d) and module.kernel_size == (7, 7):  # of a gate
            assert len(module.weight.unique()) > 1
    both = copy.copy(model.config)  # a part has gates from its own configuration already
    both.backbone_config = base.config
    assert ab.gate_record(Detector(both)) == ab.gate_record(model)
    ab.unboost(model)
    assert not attached(Detector(model.config))
    assert attached(Detector(Config(backbone_config=base.config)))


class Wrapper(nn.Module):
    """What users write to change the inputs or outputs of a network."""

    def __init__(self, base, *, first):
        super().__init__()
        if first:
            self.config = base.config
        self.base = base
        self.config = base.config
        self.last = nn.Linear(3, 3)

    def forward(self, x):
        return self.last(self.base(x))


class OwnNetwork(nn.Module):
    """What users write to build a network of transformers and more around it."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.inner = Head(config)
        self.last = nn.Linear(3, 3)

    def forward(self, x):
        return self.last(self.inner(x))


@pytest.mark.parametrize("first", [True, False])
def test_a_wrapper_with_the_configuration_of_what_it_wraps(first):
    model = trained(Head(Config()), "ab")
    config, record, x = model.config, ab.gate_record(model), torch.randn(SIZE)
    wrapper = Wrapper(model, first=first)
    assert torch.equal(wrapper(x), wrapper.last(model(x)))
    assert model.config is wrapper.config is config
    assert ab.gate_record(model) == record
    folded = ab.fold(model, example=x)
    wrapper = Wrapper(folded, first=first)
    assert torch.equal(wrapper(x), wrapper.last(folded(x)))
    assert not attached(wrapper)


def test_a_network_of_a_user_that_builds_another_from_its_configuration():
    inner = trained(Head(Config()), "ab")
    own = OwnNetwork(inner.config)
    assert [f"inner.{name}" for name in attached(inner)] == list(attached(own))
    assert record_in(own.config) == ab.gate_record(own)
    assert list(attached(Head(own.config))) == list(attached(inner))
    assert list(attached(Base(own.config))) == list(attached(inner.base))
    assert list(attached(OwnNetwork(own.inner.base.config))) == list(attached(own))


def test_a_child_that_comes_without_its_gates_is_a_warning():
    model = trained(Head(Config()), "ab")
    other = trained(Head(Config()), "ab")
    base = model.base
    del model.base
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.base = base
        model.more = nn.Linear(3, 3)
        model.base = copy.deepcopy(other.base)
    del model.base
    with pytest.warns(UserWarning, match="'base' was put into this Head without the 2 gates"):
        model.base = Base(Config())


def test_networks_that_are_built_in_several_threads():
    cfgs = [trained(make_dict(), block).yaml for block in BLOCKS]
    built: dict[int, list[str]] = {}

    def build(place: int) -> None:
        for _ in range(3):
            record = ab.gate_record(FromDict(cfgs[place % len(cfgs)]))
            built[place] = list(record["recipes"])

    threads = [threading.Thread(target=build, args=(place,)) for place in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = [list(cfg[KEY]["recipes"]) for cfg in cfgs]
    assert [built[place] for place in range(8)] == expected * 2


def test_nothing_happens_before_the_first_gate_of_a_process_or_a_word(monkeypatch):
    cfg = trained(make_dict(), "ab").yaml
    monkeypatch.setattr(module_hooks, "_global_module_registration_hooks", OrderedDict())
    assert not attached(FromDict(cfg))
    ab.surgery.follow_rebuilt_modules()
    assert len(attached(FromDict(cfg))) == 2


def test_in_a_new_process(tmp_path):
    """A pickled network brings what it needs: nothing else of this package is called."""
    model = trained(make_dict(), "ab")
    torch.save(model, tmp_path / "model.pt")
    code = (
        "import sys, torch; model = torch.load(sys.argv[1], weights_only=False)\n"
        "built = type(model)(model.yaml)\n"
        "print(built.load_state_dict(model.state_dict()))\n"
        "x = torch.ones(2, 3, 32, 32); print(torch.equal(built.eval()(x), model(x)))\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "model.pt")]
    path = ":".join(sys.path)
    out = subprocess.run(command, capture_output=True, text=True, env={"PYTHONPATH": path})
    assert out.stdout.split("\n")[:2] == ["<All keys matched successfully>", "True"], out.stderr


# --- the packages themselves


@pytest.mark.parametrize("name", ["yolov8n", "yolo11n", "yolo26n"])
def test_ultralytics(name, tmp_path, monkeypatch):
    monkeypatch.setenv("YOLO_CONFIG_DIR", str(tmp_path))
    monkeypatch.setenv("YOLO_OFFLINE", "true")
    monkeypatch.setenv("YOLO_AUTOINSTALL", "false")
    tasks = pytest.importorskip("ultralytics.nn.tasks", exc_type=ImportError)
    plain = tasks.DetectionModel(f"{name}.yaml", nc=3, verbose=False)
    model = copy.deepcopy(plain)
    ab.boost(model, "ab", init="identity", example=torch.zeros(1, 3, 64, 64))
    cfg = yaml.safe_load(yaml.dump(model.yaml))
    built = tasks.DetectionModel(cfg, nc=2, verbose=False)
    assert list(attached(built)) == list(attached(model))
    assert {n: m.eps for n, m in built.named_modules() if isinstance(m, nn.BatchNorm2d)} == {
        n: m.eps for n, m in plain.named_modules() if isinstance(m, nn.BatchNorm2d)
    }
    built = tasks.DetectionModel(cfg, nc=3, verbose=False)
    built.load(model)
    x = torch.rand(1, 3, 64, 64)
    assert torch.equal(built.eval()(x)[0], plain.eval()(x)[0])
    with pytest.raises(ValueError, match="channels and its gate"):
        tasks.DetectionModel(cfg | {"scale": "s"}, nc=3, verbose=False)
    ab.unboost(built)
    assert built.yaml == plain.yaml


RESNET = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 2]}
TRANSFORMERS = {
    "ResNet": RESNET,
    "RegNet": {**RESNET, "groups_width": 8},
    "Bit": {**RESNET, "num_groups": 4},
    "ConvNextV2": {"hidden_sizes": [8, 16], "depths": [1, 2], "num_stages": 2},
    "MobileNetV2": {"depth_multiplier": 0.25, "image_size": 64},
}


@pytest.mark.parametrize("family", TRANSFORMERS)
def test_transformers(family):
    transformers = pytest.importorskip("transformers", exc_type=ImportError)
    cls = getattr(transformers, f"{family}ForImageClassification")
    config = cls.config_class(num_labels=3, **TRANSFORMERS[family])
    x = torch.randn(2, 3, 64, 64)
    model = ab.boost(cls(config), "cbam", init="identity", example=x[:1])
    names = list(attached(model))
    assert names
    assert not attached(cls(config))
    config = type(config).from_dict(yaml.safe_load(yaml.dump(model.config.to_dict())))
    auto = transformers.AutoModelForImageClassification.from_config(config)
    for built in (cls(config), auto):
        assert list(attached(built)) == names
        fresh = built.eval()(x).logits
        with ab.disabled(built):
            assert torch.equal(built(x).logits, fresh)
        built.load_state_dict(model.state_dict())
        assert torch.equal(built(x).logits, model.eval()(x).logits)
    base = transformers.AutoModel.from_config(config)
    prefix = cls.base_model_prefix
    assert [f"{prefix}.{name}" for name in attached(base)] == names
    assert list(attached(cls(base.config))) == names
    before = type(config).from_dict(config.to_dict())
    delattr(before, KEY)
    ab.unboost(built)
    assert built.config == before


@pytest.mark.parametrize("block", ["ab", "cbam"])
def test_transformers_loads_a_checkpoint_without_the_gates(block, tmp_path):
    """What a file lacks has its first values, and is not what happens to be in the memory."""
    transformers = pytest.importorskip("transformers", exc_type=ImportError)
    cls = transformers.ResNetForImageClassification
    plain = cls(cls.config_class(**RESNET)).eval()
    plain.save_pretrained(tmp_path)
    x = torch.randn(2, 3, 64, 64)
    model = ab.boost(copy.deepcopy(plain), block, init="identity", example=x[:1])
    built = cls.from_pretrained(tmp_path, config=model.config)
    assert list(attached(built)) == list(attached(model))
    assert torch.equal(built(x).logits, plain(x).logits)
    trained_gates = ab.added_parameters(built)
    with torch.no_grad():
        for parameter in trained_gates:
            parameter.add_(0.1)
    expected = built(x).logits
    built.save_pretrained(tmp_path)
    loaded = cls.from_pretrained(tmp_path)
    assert torch.equal(loaded(x).logits, expected)
    loaded.init_weights()
    assert torch.equal(loaded(x).logits, expected)


def test_transformers_detr_with_a_boosted_backbone():
    transformers = pytest.importorskip("transformers", exc_type=ImportError)
    small = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 16}
    small |= {"decoder_ffn_dim": 16, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    x = torch.randn(1, 3, 64, 64)
    backbone = transformers.ResNetBackbone(transformers.ResNetConfig(**RESNET))
    ab.boost(backbone, "cbam", init="identity", example=x)
    config = transformers.DetrConfig(
        backbone_config=backbone.config,
        use_timm_backbone=False,
        use_pretrained_backbone=False,
        num_queries=4,
        **small,
    )
    model = transformers.DetrForObjectDetection(config).eval()
    assert len(attached(model)) == len(attached(backbone)) > 0
    fresh = model(x).logits
    with ab.disabled(model):
        assert torch.equal(model(x).logits, fresh)
    ab.unboost(model)
    ab.boost(model, "ab", example=x)
    built = transformers.DetrForObjectDetection(model.config)
    assert ab.gate_record(built) == ab.gate_record(model)
    assert built.state_dict().keys() == model.state_dict().keys()
