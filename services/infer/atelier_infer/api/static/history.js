// Generated images, stored only in this browser: PNG and request in IndexedDB, the newest 60.

const CAPACITY = 60;

function open() {
  return new Promise((resolve, reject) => {
    const request = indexedDB.open("atelier-history", 1);
    request.onupgradeneeded = () => request.result.createObjectStore("images", { keyPath: "id", autoIncrement: true });
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

async function withStore(mode, use) {
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

export const all = async () => (await withStore("readonly", (store) => store.getAll())).reverse();

export const clear = () => withStore("readwrite", (store) => store.clear());

export async function add(entry) {
  await withStore("readwrite", (store) => store.add(entry));
  const keys = await withStore("readonly", (store) => store.getAllKeys());
  if (keys.length > CAPACITY)
    await withStore("readwrite", (store) => store.delete(IDBKeyRange.upperBound(keys[keys.length - CAPACITY - 1])));
}
