"""Objectives of reinforcement learning: policy gradients and what the papers make of them."""

from reclib.objectives.drpo import adaptive_fraction, drpo_loss, top_fraction_weights
from reclib.objectives.grpo import (
    GroupAdvantages,
    dapo_loss,
    group_advantages,
    grpo_loss,
    gspo_loss,
    leave_one_out_baseline,
    ppo_loss,
    reinforce_loss,
)
from reclib.objectives.sgrec import PersonalizedSemanticJudge, a2po_advantages

__all__ = [
    "GroupAdvantages",
    "PersonalizedSemanticJudge",
    "a2po_advantages",
    "adaptive_fraction",
    "dapo_loss",
    "drpo_loss",
    "group_advantages",
    "grpo_loss",
    "gspo_loss",
    "leave_one_out_baseline",
    "ppo_loss",
    "reinforce_loss",
    "top_fraction_weights",
]
