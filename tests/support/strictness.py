"""Marks for test files in which a warning is an error: `pytestmark = WARNINGS_ARE_ERRORS`."""

import pytest

# what torch or the package says about the tiny networks and batches of tests
EXPECTED = [
    "None of the inputs have requires_grad=True",
    "the batch norm of the gate",
    "a norm that holds a gate was frozen",
    "`torch.jit.trace` is deprecated",
    ".*:DeprecationWarning",
    ".*:FutureWarning",
    "the network has .* attention modules already",
]
WARNINGS_ARE_ERRORS = [
    pytest.mark.filterwarnings("error"),
    *(pytest.mark.filterwarnings(f"ignore:{text}") for text in EXPECTED),
]
