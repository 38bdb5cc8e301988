"""Several methods on one part that has test images and masks: python examples/compare_methods.py

The controls come first. Where a trained method is not better than they are, its training has not helped."""
from dla_nb.all import Detector, get_method, make_toy

folder = make_toy('toy', 'tablet', 96)/'tablet'   # or a category of MVTec AD
preset = 'demo'                                   # 'default' for real images

for name in ('mean image', 'LocalStats', 'DLA+'):
    recipe = get_method(name).preset(preset)
    detector = Detector.fit(folder, name, recipe=recipe, holdout=0)
    metrics = detector.evaluate(folder)
    print(f'{name:10}  pixel AUROC {100*metrics["pixel_auroc"]:.1f} %, image AUROC {100*metrics["image_auroc"]:.1f} %')
