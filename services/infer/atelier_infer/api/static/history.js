// Images drawn before, in this browser alone: PNG and wish in IndexedDB, the newest 60.

const KEPT = 60;

function open() {
  return new Promise((resolve, reject) => {
    const request = indexedDB.open("atelier", 1);
    request.onupgradeneeded = () => request.result.createObjectStore("images", { keyPath: "id", autoIncrement: true });
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

async function inStore(mode, use) {
  const database = await open();
  try {
    return await new Promise((resolve, reject) => {
      const transaction = database.transaction("images", mode);
      const request = use(transaction.objectStore("images"));
      transaction.oncomplete = () => resolve(request?.result);
      transaction.onabort = transaction.onerror = () => reject(transaction.error);
    });
  } finally {
    database.close();
  }
}

export const all = async () => (await inStore("readonly", (store) => store.getAll())).reverse();

export const clear = () => inStore("readwrite", (store) => store.clear());

export async function add(entry) {
  await inStore("readwrite", (store) => store.add(entry));
  const keys = await inStore("readonly", (store) => store.getAllKeys());
  if (keys.length > KEPT)
    await inStore("readwrite", (store) => store.delete(IDBKeyRange.upperBound(keys[keys.length - KEPT - 1])));
}
