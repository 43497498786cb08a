"""Model repositories as Triton has them: folders of models with `config.pbtxt`, as models that a kernel can declare.

Nothing here touches a running kernel, and no model file is opened: folders are listed, configurations read and held
against what inferd does. What becomes of that is in `inferd.runtime.repository`.
"""
