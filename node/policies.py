"""What the policy of this node says about each of its places, from what stands in the database; loads no model.

The daemon asks it in every round, `node sync status` whenever a person wants to know.
"""

from __future__ import annotations

from datetime import datetime

from node.context import Node
from registry.paths import NodePath
from sync.policy import POLICIES, Decision, PolicySettings
from sync.policy_state import policy_state


def policy_settings(node: Node) -> PolicySettings:
    """The numbers of the policies, by the settings."""
    settings = node.settings
    return PolicySettings(
        updates=settings.policy_every,
        wait_s=settings.policy_max_wait_s,
        samples=settings.policy_samples,
        senders=settings.policy_senders,
        weight=settings.policy_weight,
        drift=settings.policy_drift,
        event=settings.policy_event,
        lazy=settings.policy_lazy,
        points=settings.policy_points,
        points_per_mb=settings.policy_points_per_mb,
    )


def decide_place(node: Node, place: NodePath, now: datetime) -> Decision:
    """Whether the updates that wait at a place become a release now, and why (G1)."""
    state = policy_state(node.store, node.blobs, node.key.public.id, place, now)
    return POLICIES[node.settings.policy](state, policy_settings(node))
