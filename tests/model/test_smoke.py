from __future__ import annotations
import time
from tests.model.rig import Rig

def test_smoke(rig: Rig) -> None:
    s1 = rig.web.connect(1, "a", 1)
    s2 = rig.web.connect(2, "a", 2)
    rig.accept(rig.build_send(1, 2, "hello"), rig.build_send(2, 1, "du"))
    rig.accept(rig.build_send(1, 1, "g", chat_type="group"))
    w = rig.worker()
    t = time.time(); assert w.run(); print("drain", time.time()-t)
    print(*w.steps.names, sep="\n")
    rig.deliver()
    print(s1.frames); print(s2.frames); print(rig.verdicts())
    t = time.time(); rig.server.restart(); print("restart", time.time()-t)
    t = time.time(); rig.reset(); print("reset", time.time()-t)
    assert 0
