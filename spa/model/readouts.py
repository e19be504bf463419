"""The readouts by name: how the decoder lets a query token read the latents.

A readout is an ImprovedTransformer with the methods of CrossReadout; another one takes
a file with its class and a line here.
"""

from spa.model.cross_readout import CrossReadout
from spa.model.joint_readout import JointReadout

READOUTS = {"joint": JointReadout, "cross": CrossReadout}
