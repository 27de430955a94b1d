"""What packages that train and save networks must be told of gates.

Some of them build networks anew and save them. Our folder `integrations` has a file for each; its
`register` has them keep gates. It is called here, when the first gate of a process is made and the
package is imported. So a process that does not use the package never imports it.
"""

from __future__ import annotations

import sys
from importlib import import_module

# {module of a package: our module whose `register` has it keep gates}
INTEGRATIONS = {
    "huggingface_hub.hub_mixin": "accuracy_booster.integrations.huggingface_hub",
    "mmengine.model.efficient_conv_bn_eval": "accuracy_booster.integrations.mmengine",
    "transformers.modeling_utils": "accuracy_booster.integrations.transformers",
}


def register_integrations() -> None:
    """Have each package that is imported keep gates, where it builds and saves networks."""
    for package, ours in INTEGRATIONS.items():
        if package in sys.modules:
            import_module(ours).register()
