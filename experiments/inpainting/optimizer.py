"""The optimizer of all trainings here."""

import optax


def cosine_adam(
    rate: float, num_steps: int, *, gradient_clip: float, last_share: float
) -> optax.GradientTransformation:
    """Adam with clipped gradients; the rate rises shortly and falls as a cosine, to `last_share` of its peak."""
    schedule = optax.warmup_cosine_decay_schedule(
        init_value=0.0,
        peak_value=rate,
        warmup_steps=min(50, num_steps // 10),
        decay_steps=num_steps,
        end_value=rate * last_share,
    )
    return optax.chain(optax.clip_by_global_norm(gradient_clip), optax.adam(schedule))
