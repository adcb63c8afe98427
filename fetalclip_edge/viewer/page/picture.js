// The picture: drawn when its answer is shown, never before or after.

const canvas = document.getElementById("picture");
const context = canvas.getContext("2d", { alpha: false });

export function decode(jpeg) {
  return createImageBitmap(new Blob([jpeg], { type: "image/jpeg" }));
}

export function draw(bitmap) {
  if (canvas.width !== bitmap.width || canvas.height !== bitmap.height) {
    canvas.width = bitmap.width;
    canvas.height = bitmap.height;
  }
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
}
