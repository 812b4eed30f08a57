"""Scene images: where they come from, how their bytes become pixels, and a generated collection that needs no download.

``sources`` lists image files (a folder, a COCO JSON), ``decode`` is the only decoder of the project, ``labels`` reads
image-level labels for evaluation, and ``generated`` renders cluttered scenes from ``cursor``, ``shapes``,
``textures`` and ``composition``. ``reading`` and ``stages`` hand all this to the pipeline.
"""
