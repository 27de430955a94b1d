"""Names of networks and blocks, which completion offers without importing torch.

A test compares them with the tables of `models/` and `blocks/`.
"""

NETWORKS = (
    *("resnet8", "resnet14", "resnet20", "resnet32", "resnet44", "resnet56", "resnet110"),
    *("resnet164", "resnet164v1", "wrn16_4", "wrn22_10", "wrn28_10"),
    *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
    *("resnet50v1", "resnet101v1", "resnet152v1", "wrn18_2", "resnext101_32x4d", "shufflenet_g3"),
)
LIBRARIES = ("timm/", "torchvision/")
BLOCKS = (
    *("none", "ab", "ab_plus", "ab_nobn", "ab_plus_nobn", "se", "eca", "cbam"),
    *("ge_theta_minus", "ge_theta", "ge_theta_plus", "ge_theta_plus_ab"),
    *("ge_theta_bn", "ge_theta_plus_bn"),
    *("design_e", "design_f", "design_g", "design_g_bn", "design_h", "design_h_bn", "design_i"),
    *("design_j", "design_k", "design_l", "design_m", "design_n", "design_o", "dw3_bn", "dw9_bn"),
)
