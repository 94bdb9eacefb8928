"""Hugging Face's Trainer and a small residual network, after the Trainer's own tutorial."""

import torch
from sklearn.datasets import load_digits
from torch.utils.data import Dataset, Subset
from transformers import ResNetConfig, ResNetForImageClassification, TrainingArguments, set_seed

from ampguard.integrations.transformers import GuardedTrainer as Trainer


class Digits(Dataset):
    def __init__(self) -> None:
        bunch = load_digits()
        self.images = torch.tensor(bunch.images, dtype=torch.float32).unsqueeze(1) / 16
        self.labels = torch.tensor(bunch.target)

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return {"pixel_values": self.images[index], "labels": self.labels[index]}


def accuracy(prediction):
    return {"accuracy": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())}


def make_trainer() -> Trainer:
    set_seed(0)
    size = {"embedding_size": 16, "hidden_sizes": [32, 64], "depths": [1, 1], "layer_type": "basic"}
    model = ResNetForImageClassification(ResNetConfig(num_channels=1, num_labels=10, **size))
    data = Digits()
    arguments = TrainingArguments(
        output_dir="resnet",
        num_train_epochs=5,
        per_device_train_batch_size=64,
        learning_rate=3e-3,
        bf16=True,
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
    )
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(0)).tolist()
    return Trainer(
        model,
        arguments,
        train_dataset=Subset(data, order[300:]),
        eval_dataset=Subset(data, order[:300]),
        compute_metrics=accuracy,
    )


if __name__ == "__main__":
    trainer = make_trainer()
    trainer.train()
    print(f"accuracy {trainer.evaluate()['eval_accuracy']:.3f}")
