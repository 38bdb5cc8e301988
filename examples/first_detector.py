"""A detector from good images in a minute: python examples/first_detector.py

It draws a synthetic part, learns from its good images, marks a defect, keeps a picture and the model."""
from dla_nb.all import Detector, DLAPlus, make_toy

folder = make_toy('toy', 'tablet', 96)/'tablet'   # or a folder of your own good images
recipe = DLAPlus.preset('demo').but(epochs=6)     # small; without a recipe: the preset 'default'
detector = Detector.fit(folder, recipe=recipe)
print('threshold', detector.threshold)            # with the false alarms to expect

defect = sorted((folder/'test').glob('[!g]*/*.png'))[0]
found = detector.predict(defect)
print(defect.parent.name, found)                  # found.score, found.label, found.map, found.mask

found.show().savefig('first_detector.jpg', dpi=120)
detector.save('tablet.safetensors')               # loading it never runs code
