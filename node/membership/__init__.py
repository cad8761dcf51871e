"""Who is there: one roster of claims, fed by greetings, gossip, a coordinator and MQTT, and the view that follows."""

from .roster import Roster
from .view import View

__all__ = ["Roster", "View"]
