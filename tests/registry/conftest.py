"""What the tests of the registry share: no deadline for one example, since machines that run tests are busy."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("banyan", deadline=None)
settings.load_profile("banyan")
