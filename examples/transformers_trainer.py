"""Fine-tune a boosted network with the Trainer of transformers, and load it again with its gates.

    python examples/transformers_trainer.py
    python examples/transformers_trainer.py --model microsoft/resnet-18

The images are scikit-learn's handwritten digits. Without --model a small ResNet is trained from
scratch.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from sklearn.datasets import load_digits
from transformers import (
    AutoModelForImageClassification,
    EvalPrediction,
    PreTrainedModel,
    ResNetConfig,
    ResNetForImageClassification,
    Trainer,
    TrainingArguments,
)

import accuracy_booster as ab

Sample = dict[str, torch.Tensor]


def digits(count: int, side: int) -> list[Sample]:
    """Samples with pixel_values [3, side, side] and a label, as the Trainer takes them."""
    found = load_digits()
    grey = torch.tensor(found.images[:count], dtype=torch.float32)[:, None] / 16
    images = torch.nn.functional.interpolate(grey, (side, side)).expand(-1, 3, -1, -1)
    labels = torch.tensor(found.target[:count])
    return [
        {"pixel_values": image, "labels": label}
        for image, label in zip(images, labels, strict=True)
    ]


def network(name: str | None) -> PreTrainedModel:
    if name is not None:
        return AutoModelForImageClassification.from_pretrained(
            name, num_labels=10, ignore_mismatched_sizes=True
        )
    config = ResNetConfig(
        embedding_size=16, hidden_sizes=[16, 32], depths=[2, 2], layer_type="basic", num_labels=10
    )
    return ResNetForImageClassification(config)


def accuracy(found: EvalPrediction) -> dict[str, float]:
    return {"accuracy": float(np.mean(found.predictions.argmax(-1) == found.label_ids))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--model", help="a network of the hub; its weights are downloaded")
    parser.add_argument("--images", type=int, default=1797)
    parser.add_argument("--epochs", type=float, default=5)
    parser.add_argument("--output", default="boosted_digits")
    options = parser.parse_args()

    torch.manual_seed(0)
    side = 16 if options.model is None else 64
    samples = digits(options.images, side)
    split = len(samples) * 4 // 5
    model = network(options.model)
    example = torch.zeros(1, 3, side, side)
    ab.boost(model, "ab", init="paper" if options.model is None else "identity", example=example)
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            options.output,
            num_train_epochs=options.epochs,
            per_device_train_batch_size=32,
            learning_rate=3e-3,
            eval_strategy="epoch",
            save_strategy="epoch",
            save_total_limit=1,
            load_best_model_at_end=True,
            metric_for_best_model="accuracy",
            report_to=[],
        ),
        train_dataset=samples[:split],
        eval_dataset=samples[split:],
        compute_metrics=accuracy,
    )
    trainer.train()
    trainer.save_model(options.output)

    loaded = ab.integrations.transformers.from_pretrained(options.output)
    images = torch.stack([sample["pixel_values"] for sample in samples[split : split + 64]])
    with torch.no_grad():
        same = torch.equal(model.cpu().eval()(images).logits, loaded(images).logits)
    found = trainer.evaluate()["eval_accuracy"]
    print(f"accuracy {100 * found:.1f} %; loaded again from {options.output}: same outputs: {same}")


if __name__ == "__main__":
    main()
