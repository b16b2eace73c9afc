// The page behind an invitation's link or QR code, for people who opened it in a browser rather than in the app.

const code = decodeURIComponent(location.hash.slice(1));
if (/^[0-9A-Za-z-]{8,64}$/.test(code)) {
  const place = /** @type {HTMLElement} */ (document.getElementById("code"));
  place.textContent = code;
}
