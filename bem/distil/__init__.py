"""A BEM as a static LoRA: the nearest one in closed form, by gradient, and what is lost."""

from bem.distil.distillation import DistilReport, distil, output_kl

__all__ = ["DistilReport", "distil", "output_kl"]
