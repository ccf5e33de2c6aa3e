"""Names for containers that were not given one: two words, as Docker does it, from the world of ships and harbours."""

from __future__ import annotations

import os

_HOW = (
    "able aft amber ardent blithe bold brave brisk calm canny clear cool coral daring deft dry eager early even fair "
    "fine firm fleet fond frank free fresh gentle glad golden grand hardy hale honest jolly keen kind lively loyal "
    "lucky merry mild misty modest neat nimble noble open patient plain proud quick quiet ready rosy royal sage salty "
    "serene sharp silent silver sleek smart snug sound spry stark steady stout sunny sure swift tall tidy trim true "
    "upright vivid warm wary windy wise witty worthy young zesty"
).split()
_WHAT = (
    "albatross anchor ballast barge barque beacon binnacle boatswain bollard boom bowsprit breeze brig buoy cable "
    "capstan caravel clipper cockle compass cormorant coxswain current cutter davit deck dinghy dory eider ensign "
    "fathom fender ferry fjord galleon gannet gull halyard harbour hatch hawser helm herring hull islet jetty jib keel "
    "kelp ketch lagoon lantern lateen leeward lighthouse log lugger mackerel mainsail mast mizzen mooring narwhal "
    "nautilus oar osprey packet pelican pennant petrel pilot plover porpoise quay reef rigging rudder sail schooner "
    "sextant sheet shoal skerry skipper sloop sounding spar spindrift starboard stern tern tide tiller topsail trawler "
    "trident tug wake wharf windlass yawl"
).split()


def random_name() -> str:
    """Two words joined by an underscore, as in `merry_schooner`."""
    number = int.from_bytes(os.urandom(4), "little")
    return f"{_HOW[number % len(_HOW)]}_{_WHAT[number // len(_HOW) % len(_WHAT)]}"


def random_id() -> str:
    """64 hex digits, as Docker's container IDs. The first twelve never look like a decimal number."""
    while True:
        identifier = os.urandom(32).hex()
        if not identifier[:12].isdigit():
            return identifier
