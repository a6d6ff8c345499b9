"""Objectives of reinforcement learning: policy gradients and what the papers make of them."""

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

__all__ = [
    "GroupAdvantages",
    "dapo_loss",
    "group_advantages",
    "grpo_loss",
    "gspo_loss",
    "leave_one_out_baseline",
    "ppo_loss",
    "reinforce_loss",
]
