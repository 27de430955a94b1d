"""Former spellings of arguments are accepted, warn, and are no second argument."""

import pytest

import accuracy_booster as ab


@pytest.mark.parametrize("call", [ab.boost, ab.plan], ids=lambda call: call.__name__)
def test_recipe_is_the_former_name_of_block(call):
    model = ab.create_model("resnet8")
    with pytest.warns(DeprecationWarning, match=rf"{call.__name__}\(recipe=...\) is now") as caught:
        call(model, recipe="se")
    assert caught[0].filename == __file__
    if call is ab.boost:
        assert "bottleneck" in str(model.layer1[0].bn2)
    for given in ((model, "ab"), (model,)):
        with pytest.raises(ValueError, match=r"recipe='se'.*give block= alone"):
            call(*given, **({} if len(given) == 2 else {"block": "ab"}), recipe="se")
